"""What `galen store` does: on the store itself, so that it needs no gateway and no key."""

import asyncio
from pathlib import Path

from services.launcher.settings_check import check_settings
from services.launcher.terminal import CommandError
from services.store.database import DATABASE_AWAY, Database, DatabaseError
from services.store.settings import StoreSettings


def migrate_store(data_dir: Path | None) -> str:
    """Bring the schema up to date; returns what to tell. Raises CommandError, in one line.

    Args:
        data_dir: of the store; None: as its settings say.
    """
    chosen = {} if data_dir is None else {"dir": str(data_dir.absolute())}
    check_settings(StoreSettings, chosen)
    settings = StoreSettings(**chosen)  # pyright: ignore[reportArgumentType] - it converts
    try:
        revision = asyncio.run(_migrated(settings))
    except DATABASE_AWAY as error:
        told = str(error) if isinstance(error, DatabaseError) else type(error).__name__
        raise CommandError(told) from None
    return f"the database has the schema {revision}"


async def _migrated(settings: StoreSettings) -> str:
    database = Database(settings.database)
    try:
        await database.open()
        return await database.revision()
    finally:
        await database.close()
