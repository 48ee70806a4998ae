"""The page as a child of `galen up`: where it listens, and what it is told."""

import asyncio
import contextlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from services.gateway.access.local_only import is_loopback
from services.launcher.children import Family
from services.launcher.listening import free_port, local_url
from services.launcher.service_process import service_process
from services.launcher.terminal import CommandError, Terminal
from services.launcher.up_key import UpKey

PAGE_PORT = 7860
_PACKAGE = "gradio"
_LONGEST_START_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PageAddress:
    """Where it listens; `port` None: the usual one, or any where that is taken."""

    host: str
    port: int | None = None


def is_page_installed() -> bool:
    """Whether what the page is made with is here."""
    return importlib.util.find_spec(_PACKAGE) is not None


def check_page_packages() -> None:
    """Raise CommandError where Gradio is not installed."""
    if not is_page_installed():
        raise CommandError(f"the page needs {_PACKAGE}: pip install 'galen[ui]'")


def status_access(address: PageAddress, key: UpKey | None, admin_key: str) -> dict[str, str]:
    """Return the setting by which a page shows the status to people without a key.

    A page that others can reach gets none.

    Args:
        key: what is asked of everybody; None: nothing.
    """
    return {"admin_key": admin_key} if key is None and is_loopback(address.host) else {}


async def start_page(
    family: Family,
    terminal: Terminal,
    address: PageAddress,
    gateway_url: str,
    chosen: Mapping[str, str],
) -> str | None:
    """Start the page, which is started again when it dies, and return its URL; None: not installed.

    Args:
        chosen: further settings, by field.
    """
    if not is_page_installed():
        terminal.progress(f"no page: it needs {_PACKAGE} (pip install 'galen[ui]')")
        return None
    port = _free_port(address)
    settings = {"host": address.host, "port": str(port), "gateway_url": gateway_url, **chosen}
    command, environment = service_process("ui", settings)

    def on_end(why: CommandError | None) -> None:
        """The API goes on without it."""
        if why is not None:
            terminal.progress(f"{why.message}; the page is gone, the API serves on")

    kept = await family.start_kept("ui", command, environment, on_end)
    kept.is_established = True
    return local_url(address.host, port, "")


async def is_page_there(url: str) -> bool:
    """Wait for the page, which takes seconds to start; whether it answers."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST_START_S), httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{url}healthz")).is_success:
                        return True
                await asyncio.sleep(_POLL_S)
    return False


def _free_port(address: PageAddress) -> int:
    if address.port is not None:
        return free_port(address.host, address.port, "--ui-port")
    try:
        return free_port(address.host, PAGE_PORT)
    except CommandError:
        return free_port(address.host, 0)
