"""A real Prometheus reads a real platform, with our rules: every panel has something to show."""

import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from deploy.grafana.make_dashboards import boards
from tests.deploy.figures import PROMETHEUS, rules
from tests.support.client import Client
from tests.support.program import Program, free_port
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING_TO_SHOW = {
    "galen:prefix_cache_hits:ratio5m",  # vLLM's
    "sum by (code) (rate(galen_gateway_failed_requests_total[1m])) > 0",  # nothing failed
}

RECORDS = {rule.name for rule in rules() if not rule.is_alert}
PANELS = {
    target["expr"]
    for text in boards().values()
    for panel in json.loads(text)["panels"]
    for target in panel["targets"]
}


@dataclass(slots=True)
class Server:
    """A running Prometheus.

    Args:
        num_tokens: that the platform which it reads has generated.
    """

    port: int
    num_tokens: int = 0

    async def ask(self, path: str, **words: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        try:
            async with httpx.AsyncClient(timeout=10) as client:
                response = await client.get(url, params=words)
        except httpx.TransportError as error:
            raise ConnectionError from error  # not yet, for `eventually`
        if response.status_code == 503:
            raise ConnectionError("it is starting")
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def value(self, expr: str) -> list[Any]:
        return (await self.ask("query", query=expr))["result"]


def configuration(stack: Stack) -> str:
    """Ours, with the addresses of this stack, and in a hurry."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    config["rule_files"] = [str(PROMETHEUS / "rules" / "*.yml")]
    ports = {
        "gateway": stack.ports,
        "worker": [each.environment["GALEN_WORKER_METRICS_PORT"] for each in stack.workers],
    }
    for job in config["scrape_configs"]:
        found = job.pop("dns_sd_configs", None)
        if found:
            targets = [f"127.0.0.1:{port}" for port in ports[job["job_name"]]]
            job["static_configs"] = [{"targets": targets}]
    return yaml.safe_dump(config)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A Prometheus beside two workers and a gateway that have answered some questions."""
    program = shutil.which("prometheus")
    assert program is not None, "there is no prometheus; `make test` installs it"
    folder = tmp_path_factory.mktemp("prometheus")
    async with Stack(folder, num_workers=2, durable=False) as stack:
        server = Server(free_port())
        process = started(program, folder, configuration(stack), server.port)
        try:
            await eventually(lambda: server.value("up"), 20.0, "Prometheus")
            await eventually(
                lambda: has_scraped_twice(server), 20.0, "two readings of every target"
            )
            await eventually(lambda: has_recorded(server, stack), 30.0, "the recorded figures")
            yield server
        finally:
            process.end()


def started(program: str, folder: Path, config: str, port: int) -> Program:
    file = folder / "prometheus.yml"
    file.write_text(config)
    command = [
        program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    process = Program("prometheus", command, {"PATH": "/usr/bin"}, folder / "prometheus.log")
    process.start()
    return process


async def has_scraped_twice(server: Server) -> bool:
    rows = await server.value('min(count_over_time(up{job=~"gateway|worker"}[1m]))')
    up = await server.value('sum(up{job=~"gateway|worker"})')
    return bool(rows) and float(rows[0]["value"][1]) >= 2 and float(up[0]["value"][1]) == 3


async def has_recorded(server: Server, stack: Stack) -> bool:
    """Ask some more; returns whether everything was recorded, percentiles as numbers.

    What is first seen with all its answers in it has not risen, for Prometheus: hence some more.
    """
    await work(server, stack)
    late = "galen:tpot_seconds:p95_5m == galen:tpot_seconds:p95_5m"
    return all([await server.value(expr) for expr in (late, *sorted(RECORDS - NOTHING_TO_SHOW))])


async def work(server: Server, stack: Stack) -> None:
    client = Client(stack.port)
    for stream in (True, False):
        record = await client.ask("[[n=20 d=10]]", stream=stream)
        assert record.is_complete
        server.num_tokens += record.num_tokens


async def test_every_panel_and_record_has_something_to_show(server: Server):
    empty = {expr for expr in RECORDS | PANELS if not await server.value(expr)}

    assert empty == NOTHING_TO_SHOW


async def test_figures_are_those_of_the_platform(server: Server):
    async def number(expr: str) -> float:
        (row,) = await server.value(expr)
        return float(row["value"][1])

    async def has_all_tokens() -> bool:
        told = ("galen_gateway_completion_tokens_total", "galen_worker_generated_tokens_total")
        return {await number(f"sum({name})") for name in told} == {server.num_tokens}

    await eventually(has_all_tokens, 10.0, "every token")
    assert await number("galen:ready_workers:max") == 2
    assert await number("galen:worker_slots:max") == 16
    assert 0.009 < await number("galen:tpot_seconds:p95_5m") < 1
    assert 0 < await number("galen:ttft_seconds:p95_5m") < 5
    assert await number("galen:errors:ratio5m") == 0
    assert await number("galen_gateway_redis_up") == 1


async def test_no_rule_fails_and_no_alert_fires(server: Server):
    groups = (await server.ask("rules"))["groups"]
    found = [rule for group in groups for rule in group["rules"]]

    assert len(found) == len(rules())
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in found if rule.get("state", "inactive") != "inactive"] == []
