"""The key of one `galen up`: made where keys are asked for, taken back at its end.

Where none is asked for, that is said loudly. A launcher that was killed leaves a key that expires.
"""

from dataclasses import dataclass

from services.gateway.access.local_only import is_loopback
from services.gateway.key_schemas import DEFAULT_SCOPES, DEFAULT_TENANT
from services.gateway.settings import GatewaySettings
from services.launcher.terminal import CommandError, Terminal
from services.store.database import DATABASE_AWAY, Database
from services.store.key_audit import note_command
from services.store.key_records import NewKey, add_key, has_keys, revoke_key
from services.store.key_secrets import load_secrets
from services.store.settings import StoreSettings

_LIFE_S = 7 * 86_400
_NO_KEY = (
    "{host} can be reached by others, and there is no key yet: make one with `galen keys create`, "
    "listen on 127.0.0.1, or say GALEN_GATEWAY_AUTH=off if everybody may use it"
)
_OPEN_HERE = (
    "OPEN to every program on this machine: no key was made yet. `galen keys create NAME` makes "
    "one; from then on every request needs a key."
)
_OPEN_TO_ALL = "OPEN TO EVERYBODY who can reach {host}: GALEN_GATEWAY_AUTH=off asks for no key."


@dataclass(frozen=True, slots=True)
class UpKey:
    """A key and its id."""

    key_id: str
    key: str


async def take_key(settings: GatewaySettings, store: StoreSettings) -> UpKey | None:
    """Make a key; None: none is asked for.

    Raises:
        CommandError: the gateway must not listen there without one, or the database is away.
    """
    if settings.auth == "off":
        return None
    is_local = is_loopback(settings.host)
    new = NewKey("galen up", DEFAULT_TENANT, DEFAULT_SCOPES, expires_in_s=_LIFE_S)
    database = Database(store.database)
    try:
        await database.open()
        async with database.begin() as session:
            if settings.auth == "auto" and not await has_keys(session):
                if is_local:
                    return None
                raise CommandError(_NO_KEY.format(host=settings.host or "every address"))
            made = await add_key(session, load_secrets(store), new)
            await note_command(session, "galen up create", made.row.tenant_id, made.row.id)
    except DATABASE_AWAY as error:
        raise CommandError(
            f"the keys cannot be read: {error}; GALEN_GATEWAY_AUTH=off asks for none"
        ) from error
    finally:
        await database.close()
    return UpKey(made.row.id, made.key)


async def give_back(key: UpKey, store: StoreSettings) -> None:
    """Revoke a key; where the database is away, it ends by itself."""
    database = Database(store.database)
    try:
        async with database.begin() as session:
            if (row := await revoke_key(session, key.key_id)) is not None:
                await note_command(session, "galen up revoke", row.tenant_id, row.id)
    except DATABASE_AWAY:
        return
    finally:
        await database.close()


def say_who_may_ask(terminal: Terminal, settings: GatewaySettings, key: UpKey | None) -> None:
    """Print the key of this run, or that nobody is asked for one."""
    if key is not None:
        terminal.result(f"\nKey of this run (gone with it): {key.key}", "bold")
    elif settings.auth == "off":
        terminal.result(f"\n{_OPEN_TO_ALL.format(host=settings.host)}", "bold red")
    else:
        terminal.result(f"\n{_OPEN_HERE}", "bold yellow")
