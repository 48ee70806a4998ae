"""What `galen keys` does: on the store itself, so that it needs no gateway and no other key.

What it changes, it records in the audit, in the same transaction.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncSession

from services.gateway.key_schemas import (
    MOST_OVERLAP_S,
    ApiKey,
    key_of,
    new_key_of,
    read_create_key,
)
from services.launcher.settings_check import check_settings
from services.launcher.terminal import CommandError
from services.protocol.errors import RequestError
from services.store.database import DATABASE_AWAY, Database, DatabaseError
from services.store.file_records import Page
from services.store.key_audit import note_command
from services.store.key_records import (
    MOST_KEYS,
    MadeKey,
    NewKey,
    TooManyKeysError,
    add_key,
    find_key,
    list_keys,
    revoke_key,
    rotate_key,
)
from services.store.key_secrets import KeySecrets, load_secrets
from services.store.models import KeyRow
from services.store.settings import StoreSettings

R = TypeVar("R")

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LISTED = 100_000
_WIDTH_IN_A_PIPE = 4096


def seconds_of(option: str, text: str) -> int:
    """Return a duration such as 90d or 24h in seconds; raises typer.BadParameter."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise typer.BadParameter(f"{option} {text!r}: write a number and s, m, h or d, such as 24h")
    return int(number) * _UNITS_S[unit]


class KeyCommands:
    """Use it as a context manager. Every call raises CommandError, in one line.

    Args:
        data_dir: of the store; None: as its settings say.
    """

    def __init__(self, data_dir: Path | None) -> None:
        chosen = {} if data_dir is None else {"dir": str(data_dir.absolute())}
        check_settings(StoreSettings, chosen)
        self._settings = StoreSettings(**chosen)  # pyright: ignore[reportArgumentType] - it converts
        width = None if sys.stdout.isatty() else _WIDTH_IN_A_PIPE
        self._out = Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._err = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.file.flush()

    def create(self, fields: Mapping[str, Any]) -> None:
        """Make a key and print it."""
        try:
            new = new_key_of(read_create_key(dict(fields)))
        except RequestError as error:
            raise CommandError(error.message) from error
        try:
            made = self._run(lambda session: self._made(session, new))
        except TooManyKeysError:
            raise CommandError(f"there are {MOST_KEYS} keys, the most that may be") from None
        self._print_once(made)

    def list(self, tenant: str | None) -> None:
        """Print all keys."""
        rows = self._run(lambda session: list_keys(session, tenant, Page(_LISTED))) or []
        titles = ("key", "name", "tenant", "scopes", "state", "last used", "limits")
        table = Table(*titles, box=None, pad_edge=False, header_style="bold")
        for key in map(key_of, rows):
            limits = ", ".join(
                f"{value} {name.replace('_', ' ')}"
                for name, value in msgspec.structs.asdict(key.limits).items()
                if value is not None
            )
            table.add_row(
                key.id, key.name, key.tenant, " ".join(key.scopes), _state(key),
                _date(key.last_used_at), limits,
            )  # fmt: skip
        self._out.print(table)

    def show(self, key_id: str) -> None:
        """Print one as JSON."""
        row = self._run(lambda session: find_key(session, key_id))
        if row is None:
            raise _unknown(key_id)
        text = msgspec.json.format(msgspec.json.encode(key_of(row)), indent=2)
        self._out.print(text.decode())

    def revoke(self, key_id: str) -> None:
        """Let a key be of no use."""

        async def revoked(session: AsyncSession) -> KeyRow | None:
            row = await revoke_key(session, key_id)
            if row is not None:
                await note_command(session, "galen keys revoke", row.tenant_id, row.id)
            return row

        if self._run(revoked) is None:
            raise _unknown(key_id)
        self._out.print(f"{key_id} is revoked")

    def rotate(self, key_id: str, overlap_s: int) -> None:
        """Replace a key and print the new one."""
        if overlap_s > MOST_OVERLAP_S:
            raise CommandError(f"--overlap may be {MOST_OVERLAP_S // 86_400}d at most")

        async def rotated(session: AsyncSession) -> MadeKey | None:
            made = await rotate_key(session, self._secrets(), key_id, overlap_s)
            if made is not None:
                name = f"{key_id}/rotate/{made.row.id}"
                await note_command(session, "galen keys rotate", made.row.tenant_id, name)
            return made

        made = self._run(rotated)
        if made is None:
            raise _unknown(key_id)
        self._print_once(made)

    async def _made(self, session: AsyncSession, new: NewKey) -> MadeKey:
        made = await add_key(session, self._secrets(), new)
        await note_command(session, "galen keys create", made.row.tenant_id, made.row.id)
        return made

    def _print_once(self, made: MadeKey) -> None:
        key = key_of(made.row)
        self._err.print(
            f"{key.name}: tenant {key.tenant}, for {' '.join(key.scopes)}, {_state(key)}. "
            "Keep it: it is not shown again."
        )
        self._out.print(made.key)

    def _secrets(self) -> KeySecrets:
        try:
            return load_secrets(self._settings)
        except OSError as error:
            raise CommandError(f"the pepper of the keys: {error}") from error

    def _run(self, work: Callable[[AsyncSession], Awaitable[R]]) -> R:
        async def run() -> R:
            database = Database(self._settings.database)
            try:
                await database.open()
                async with database.begin() as session:
                    return await work(session)
            finally:
                await database.close()

        try:
            return asyncio.run(run())
        except DatabaseError as error:
            raise CommandError(str(error)) from error
        except DATABASE_AWAY as error:
            raise CommandError(f"the database failed ({type(error).__name__})") from error


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {_date(key.revoked_at)}"
    if key.expires_at is None:
        return "without an end"
    is_over = key.expires_at <= datetime.now(UTC).timestamp()
    return f"{'expired' if is_over else 'until'} {_date(key.expires_at)}"


def _date(seconds: int | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _unknown(key_id: str) -> CommandError:
    return CommandError(
        f"there is no key {key_id[:40]!r}, or it is of no use any more; see galen keys list"
    )
