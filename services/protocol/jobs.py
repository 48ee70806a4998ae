"""Jobs (batches and evaluations): names and payloads of their Celery tasks, limits of their input.

The gateway sends tasks by name, the workers of `evaluation/jobs` take them. A task is a hint: what
is to be done stands in the database, so that one that is lost or comes twice does no harm. What
does *not* live here: Celery itself.
"""

from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

QUEUE = "galen.jobs"
START_TASK = "galen.jobs.start"
"""Check a job's input and split it; arguments: job id."""
SHARD_TASK = "galen.jobs.shard"
"""Do a shard; arguments: job id, number."""
FINISH_TASK = "galen.jobs.finish"
"""Bring a job to its end; arguments: job id."""
ECHO_TASK = "galen.jobs.echo"
"""Show that a worker takes tasks; no arguments, through a queue of its own (`echo_queue`)."""

BATCH_ENDPOINTS = ("/v1/chat/completions",)
COMPLETION_WINDOWS = {"24h": 86_400}
"""Seconds by name; OpenAI's only one."""
MAX_LINES = 50_000
MAX_FILE_BYTES = 200 * 10**6
MAX_LINE_BYTES = 8 << 20
MAX_CUSTOM_ID = 512
"""Characters."""

_KEY_PREFIX = "galen:celery:"
_VISIBILITY_TIMEOUT_S = 3600


def echo_queue(worker: str) -> str:
    """Return the queue that only one worker takes from."""
    return f"galen.jobs.echo.{worker}"


def broker_address(redis_url: str) -> str:
    """Return Celery's form of a Redis address: it spells unix sockets its own way."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    password = f":{quote(unquote(parts.password), safe='')}@" if parts.password else ""
    return f"redis+socket://{password}{unquote(parts.path)}?virtual_host={database}"


def celery_settings(redis_url: str) -> dict[str, Any]:
    """Return Celery's settings for both sides (its own names, of any type; hence Any).

    JSON alone is read and written, and no results are kept: they stand in the database.
    """
    return {
        "broker_url": broker_address(redis_url),
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_default_queue": QUEUE,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_publish_retry": False,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "global_keyprefix": _KEY_PREFIX,
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "socket_timeout": 10.0,
            "socket_connect_timeout": 2.0,
            "socket_keepalive": True,
        },
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
    }
