"""The dashboards, from which their JSON is made: the one source.

    python -m deploy.grafana.make_dashboards

Every expression names metrics of `services/*/metrics.py` and rules of `deploy/prometheus/rules`;
tests/deploy holds that, and that the JSON beside is what this module makes.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.panels import Line, chart, number, page

FOLDER = Path(__file__).parent / "dashboards"
_GENERATING = 'route=~"/v1/(chat/completions|completions|responses)"'


def overview() -> dashboard.Dashboard:
    """Return the board to look at first: do people get answers, and how fast?"""
    board = page("galen-overview", "Galen: overview", "Do people get answers, and how fast?")
    for figure in (
        number("Requests", "That generate", "reqps", "galen:generating_requests:rate5m"),
        number(
            "Errors of ours", "Of 5 minutes; the objective is 0.5 %", "percentunit",
            "galen:errors:ratio5m or vector(0)", limit=0.005,
        ),
        number(
            "Time to first token", "95th percentile of 5 minutes, queue included", "s",
            "max(galen:ttft_seconds:p95_5m)", limit=5,
        ),
        number("Waiting", "Requests in all queues", "short", "sum(galen:waiting_requests:max)"),
        number("Ready workers", "Of all models", "short", "sum(galen:ready_workers:max)"),
        number(
            "Dead letters", "Took two workers down, or could not be read", "short",
            "galen:dead_letters:max", limit=1,
        ),
    ):  # fmt: skip
        board = board.with_panel(figure)
    for panel in (
        chart("Time to first token", "From the request to the first content, queue included", "s", [
            Line("galen:ttft_seconds:p50_5m", "{{model}} p50"),
            Line("galen:ttft_seconds:p95_5m", "{{model}} p95"),
        ], limit=5),
        chart("Time per output token", "Between the first token and the last, p95", "s", [
            Line("galen:tpot_seconds:p95_5m", "{{model}}"),
        ]),
        chart("Generated tokens per second", "Of all workers of a model", "short", [
            Line("galen:completion_tokens:rate1m", "{{model}}"),
        ]),
        chart("Waiting requests", "In the queue, by model and lane", "short", [
            Line("galen:waiting_requests:max", "{{model}} {{lane}}"),
        ]),
        chart("Ready workers", "With a lease, claiming requests", "short", [
            Line("galen:ready_workers:max", "{{model}}"),
        ]),
        chart("Slots in use", "Of those that the workers run at once", "percentunit", [
            Line("galen:batch_occupancy:ratio", "{{model}}"),
        ], limit=1),
        chart("Answers by status", "Of the routes that generate", "reqps", [
            Line(
                f"sum by (status) (rate(galen_gateway_responses_total{{{_GENERATING}}}[1m]))",
                "{{status}}",
            ),
        ]),
        chart("Errors by code", "Also those in the middle of a stream", "reqps", [
            Line("sum by (code) (rate(galen_gateway_failed_requests_total[1m])) > 0", "{{code}}"),
        ]),
        chart("Errors of ours", "What the error budget is about", "percentunit", [
            Line("galen:errors:ratio5m", "5 minutes"),
            Line("galen:errors:ratio1h", "1 hour"),
            Line("galen:errors:ratio6h", "6 hours"),
        ], limit=0.005),
    ):  # fmt: skip
        board = board.with_panel(panel)
    return board


def queue() -> dashboard.Dashboard:
    """Return the board of gateways and the queue: where time goes before a worker has a request."""
    board = page(
        "galen-queue", "Galen: gateway and queue", "What happens before a worker has a request"
    )
    lag = "rate(galen_gateway_event_loop_lag_seconds_bucket[5m])"
    decode = "rate(galen_gateway_image_decode_seconds_bucket[5m])"
    for panel in (
        chart("Queue time by lane", "p95, measured at the claim, every attempt", "s", [
            Line("galen:queue_time_seconds:p95_5m", "{{lane}}"),
        ]),
        chart("Queue time by tenant", "p95, of what ended well", "s", [
            Line("galen:tenant_queue_time_seconds:p95_5m", "{{tenant}} {{lane}}"),
        ]),
        chart("Requests by tenant", "That ended well, per second", "reqps", [
            Line(
                "sum by (tenant) (rate(galen_gateway_queue_time_seconds_count[5m]))", "{{tenant}}"
            ),
        ]),
        chart("Attempts", "Put into the queue; later ones follow the loss of a worker", "reqps", [
            Line("sum by (attempt) (rate(galen_gateway_attempts_total[5m]))", "{{attempt}}"),
        ]),
        chart("Lost attempts", "By what happened to their worker", "reqps", [
            Line("sum by (reason) (rate(galen_gateway_lost_attempts_total[5m]))", "{{reason}}"),
        ]),
        chart("Given up by their clients", "Choices, per second", "reqps", [
            Line("sum(rate(galen_gateway_cancelled_choices_total[5m]))", "cancelled"),
            Line("sum(rate(galen_gateway_stalled_clients_total[5m]))", "cut: they read nothing"),
        ]),
        chart("Image decoding", "In a child, one image", "s", [
            Line(f"histogram_quantile(0.5, sum by (le) ({decode}))", "p50"),
            Line(f"histogram_quantile(0.95, sum by (le) ({decode}))", "p95"),
        ]),
        chart("Where images come from", "A decoder, the cache, another request", "ops", [
            Line("sum by (source) (rate(galen_gateway_images_total[5m]))", "{{source}}"),
        ]),
        chart("Refused by Redis", "To workers without a lease", "ops", [
            Line("galen:fenced_writes:rate5m", "writes"),
            Line("max(rate(galen_gateway_fenced_renewals_total[5m]))", "renewals"),
        ]),
        chart("Event loop lag", "How late a gateway runs its timers", "s", [
            Line(f"histogram_quantile(0.99, sum by (le, instance) ({lag}))", "{{instance}} p99"),
        ], limit=0.1),
        chart("Memory of gateways", "Resident; decoders left out", "bytes", [
            Line('process_resident_memory_bytes{job="gateway"}', "{{instance}}"),
        ]),
        chart("Audit", "Records that wait for the database, and lost ones", "short", [
            Line("galen_gateway_audit_waiting_records", "{{instance}} waiting"),
            Line("increase(galen_gateway_audit_lost_records_total[5m])", "{{instance}} lost"),
        ]),
    ):  # fmt: skip
        board = board.with_panel(panel)
    return board


def workers() -> dashboard.Dashboard:
    """Return the board of workers: how full they are, and what their caches save."""
    board = page("galen-workers", "Galen: workers", "How full workers are, and what caches save")
    prefill = "rate(galen_worker_prefill_seconds_bucket[5m])"
    for panel in (
        chart("Slots in use", "Requests in the engine, and the slots", "short", [
            Line("galen_worker_running_requests", "{{instance}}"),
            Line("galen_worker_slots", "{{instance}} slots"),
        ]),
        chart("Tokens per step", "Of all requests in the batch: how wide it really is", "short", [
            Line(
                "rate(galen_worker_generated_tokens_total[1m])"
                " / (rate(galen_worker_engine_steps_total[1m]) > 0)",
                "{{instance}}",
            ),
        ]),
        chart("Generated tokens per second", "By worker", "short", [
            Line("rate(galen_worker_generated_tokens_total[1m])", "{{instance}}"),
        ]),
        chart("KV cache", "Share in use", "percentunit", [
            Line("galen_worker_kv_cache_usage_ratio", "{{instance}}"),
        ], limit=0.95),
        chart("Scheduler of vLLM", "Requests in its batch, and those that wait for room", "short", [
            Line("galen_worker_scheduler_running_requests", "{{instance}} running"),
            Line("galen_worker_scheduler_waiting_requests", "{{instance}} waiting"),
        ]),
        chart("Prefill", "From the engine's taking a request to its first token, p95", "s", [
            Line(f"histogram_quantile(0.95, sum by (le, instance) ({prefill}))", "{{instance}}"),
        ]),
        chart("Prefix cache", "vLLM: share of prompt tokens that were found", "percentunit", [
            Line("galen:prefix_cache_hits:ratio5m", "hits"),
        ]),
        chart("Vision tower", "Images that it encoded, and those whose features were kept", "ops", [
            Line("sum(rate(galen_worker_encoded_images_total[5m]))", "encoded"),
            Line("sum(rate(galen_worker_reused_images_total[5m]))", "kept"),
        ]),
        chart("Where pixels come from", "Per second: the store, or this worker's memory", "ops", [
            Line("sum by (source) (rate(galen_worker_images_total[5m]))", "{{source}}"),
        ]),
        chart("Given up", "Requests, per second, and leases that were found to be over", "ops", [
            Line("sum(rate(galen_worker_aborted_requests_total[5m]))", "aborted"),
            Line("sum(rate(galen_worker_fenced_total[5m]))", "fenced"),
        ]),
        chart("Starts of engines", "In the last half hour", "short", [
            Line('changes(process_start_time_seconds{job="worker"}[30m])', "{{instance}}"),
        ]),
        chart("Memory of engines", "Resident, on the host", "bytes", [
            Line('process_resident_memory_bytes{job="worker"}', "{{instance}}"),
        ]),
    ):  # fmt: skip
        board = board.with_panel(panel)
    return board


def boards() -> dict[str, str]:
    """Return every dashboard's file name and JSON."""
    made = {"overview": overview(), "queue": queue(), "workers": workers()}
    return {
        f"{name}.json": json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, board in made.items()
    }


def main() -> None:
    """Write the files anew."""
    for name, text in boards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
