"""Settings of the store: environment variables with the prefix `GALEN_STORE_`.

Read by every service that keeps something: a gateway and the job workers beside it need the same.
"""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.settings_guard import ServiceSettings

ENV_PREFIX = "GALEN_STORE_"


def _database_address(url: SecretStr | None) -> SecretStr | None:
    """Refuse what is none, without quoting it: it may hold a password."""
    text = "" if url is None else url.get_secret_value()
    if text and not text.startswith(("sqlite", "postgresql")):
        raise ValueError("it must begin with sqlite:// or postgresql://")
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise ValueError("its port is no number from 0 to 65535") from None
    return url


class StoreSettings(ServiceSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    dir: Path = Field(
        default=Path(platformdirs.user_data_dir("galen", appauthor=False)),
        description="Folder of the database and of files, where nothing else is said of them",
    )
    database_url: Annotated[SecretStr | None, AfterValidator(_database_address)] = Field(
        default=None,
        description="postgresql+asyncpg://USER:PASSWORD@HOST/NAME, or sqlite+aiosqlite:///FILE "
        "(default: galen.db in the folder)",
    )
    files_url: str | None = Field(
        default=None,
        description="Where files are kept: a folder, or any address that fsspec knows, such as "
        "s3://BUCKET/PATH (default: `files` in the folder)",
    )

    key_pepper: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Secret that API keys are hashed with, the same for all services (default: "
        "one that is made once and kept in the folder, in `key_pepper`)",
    )

    @property
    def database(self) -> str:
        """SQLAlchemy's address of the database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.dir.absolute() / 'galen.db'}"

    @property
    def files(self) -> str:
        """Fsspec's address of the files."""
        return self.files_url or str(self.dir.absolute() / "files")
