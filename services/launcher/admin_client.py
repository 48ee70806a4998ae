"""What `galen models` and `galen workers` do: HTTP to the gateway, tables to the terminal."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx
from rich.console import Console
from rich.table import Table

from services.launcher.admin_access import AdminAccess
from services.launcher.terminal import CommandError

_TIMEOUT_S = 45.0  # longer than the gateway waits for an agent
_POLL_S = 0.3
_WIDTH_IN_A_PIPE = 4096  # a model is one line there, for grep


class AdminClient:
    """The administration of one gateway. Every call raises CommandError with what it says."""

    def __init__(self, access: AdminAccess) -> None:
        self._url = access.url
        width = None if sys.stdout.isatty() else _WIDTH_IN_A_PIPE
        self._console = Console(
            width=width, markup=False, highlight=False, emoji=False, soft_wrap=True
        )
        self._http = httpx.Client(
            headers={"authorization": f"Bearer {access.key}"}, timeout=_TIMEOUT_S, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def list_models(self) -> None:
        """Print the models that are served, and those that hosts load or failed to load."""
        rows: dict[str, tuple[str, ...]] = {}
        for model in self._call("GET", "/models")["data"]:
            context = str(model["context_length"])
            about = _about_adapter(model)
            rows[model["id"]] = (model["engine"], model["state"], context, about)
        for host in self._call("GET", "/admin/hosts")["data"]:
            for model in host["models"]:
                shown = rows.get(model["id"], (model["engine"], model["state"], "", ""))
                about = model["problem"] or model["layout"]
                rows[model["id"]] = (*shown[:3], about)
        self._table(("model", "engine", "state", "context", "layout"), rows)

    def load(self, body: Mapping[str, Any], *, wait_s: float | None) -> None:
        """Load a model, and wait until it is ready, for at most `wait_s` (None: not at all)."""
        done = self._call("POST", "/admin/models", {k: v for k, v in body.items() if v is not None})
        model_id = done["id"]
        self._console.print(f"{model_id}: {done['note']}")
        if wait_s is None:
            return
        until = time.monotonic() + wait_s
        with self._console.status(f"loading {model_id}"):
            while not self._is_ready(model_id):
                if time.monotonic() > until:
                    raise CommandError(f"{model_id} is not ready after {wait_s:g} s; it goes on")
                time.sleep(_POLL_S)
        self._console.print(f"{model_id} is ready")

    def unload(self, model_id: str, timeout_s: float) -> None:
        """Unload a model."""
        path = f"/admin/models/{quote(model_id)}"
        done = self._call("DELETE", path, {"timeout_s": timeout_s})
        self._console.print(f"{model_id} was unloaded: {done['note']}")

    def list_workers(self) -> None:
        """Print the workers."""
        rows = {
            worker["id"]: (
                worker["host"], worker["model"], worker["engine"], worker["state"],
                f"{worker['running']} of {worker['slots']}",
            )
            for worker in self._call("GET", "/admin/workers")["data"]
        }  # fmt: skip
        self._table(("worker", "host", "model", "engine", "state", "running"), rows)

    def order(self, worker: str, name: str, body: Mapping[str, Any] | None = None) -> None:
        """Give an order to a worker, by its id or by an unambiguous beginning of it."""
        ids = [each["id"] for each in self._call("GET", "/admin/workers")["data"]]
        found = [each for each in ids if each == worker] or [
            each for each in ids if each.startswith(worker)
        ]
        if len(found) != 1:
            said = "no worker" if not found else "more than one worker"
            raise CommandError(f"{said} is called {worker!r}; there are:", sorted(ids))
        done = self._call("POST", f"/admin/workers/{quote(found[0], safe='')}/{name}", body)
        self._console.print(f"{found[0]}: {done['note']}")

    def read(self, path: str, query: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON
        """Return what a route answers."""
        return self._call("GET", f"{path}?{urlencode(query)}")

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line)

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print rows in their order."""
        table = Table(*titles, box=None, pad_edge=False, header_style="bold")
        for cells in rows:
            table.add_row(*cells)
        self._console.print(table)

    def _is_ready(self, model_id: str) -> bool:
        for host in self._call("GET", "/admin/hosts")["data"]:
            for model in host["models"]:
                if model["id"] == model_id and model["state"] == "failed":
                    raise CommandError(f"{model_id} failed: {model['problem']}")
        try:
            answer = self._http.get(f"{self._url}/models/{quote(model_id)}")
        except httpx.TransportError:
            return False
        return answer.status_code == HTTPStatus.OK and answer.json()["state"] == "ready"

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        try:
            answer = self._http.request(method, f"{self._url}{path}", json=body)
        except httpx.TimeoutException as error:
            raise CommandError(f"the gateway at {self._url} did not answer in time") from error
        except httpx.TransportError as error:
            raise CommandError(f"no gateway answers at {self._url}") from error
        try:
            found = answer.json()
        except ValueError as error:
            raise CommandError(f"what answers at {self._url} is no gateway of ours") from error
        if answer.status_code != HTTPStatus.OK:
            raise CommandError(_refusal(found, answer.status_code))
        return found

    def _table(self, titles: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> None:
        self.table(titles, [(name, *cells) for name, cells in sorted(rows.items())])


def _about_adapter(model: Mapping[str, Any]) -> str:
    """Return whose adapter it is; "" for a model."""
    if model["parent"] is None:
        return ""
    notice = "" if model["is_base_verified"] else " (unverified base)"
    return f"adapter of {model['parent']}{notice}"


def _refusal(body: Any, status: int) -> str:  # noqa: ANN401 - JSON
    try:
        return f"{body['error']['message']} ({body['error']['code']}, HTTP {status})"
    except (KeyError, TypeError):
        return f"HTTP {status}"
