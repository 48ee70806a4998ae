"""Settings of the store: environment variables with the prefix `GALEN_STORE_`.

Read by every service that keeps something: a gateway and the job workers beside it need the same.
"""

from pathlib import Path

import platformdirs
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "GALEN_STORE_"


class StoreSettings(BaseSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    dir: Path = Field(
        default=Path(platformdirs.user_data_dir("galen", appauthor=False)),
        description="Folder of the database and of files, where nothing else is said of them",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="postgresql+asyncpg://USER:PASSWORD@HOST/NAME, or sqlite+aiosqlite:///FILE "
        "(default: galen.db in the folder)",
    )
    files_url: str | None = Field(
        default=None,
        description="Where files are kept: a folder, or any address that fsspec knows, such as "
        "s3://BUCKET/PATH (default: `files` in the folder)",
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
