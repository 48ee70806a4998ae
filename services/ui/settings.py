"""Settings of the front end: environment variables with the prefix `GALEN_UI_`."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from services.endpoint_client.places import host_of
from services.settings_guard import ServiceSettings
from services.telemetry import LogFormat, LogLevel

ENV_PREFIX = "GALEN_UI_"


def _http_address(url: str) -> str:
    if host_of(url) is None:
        raise ValueError("it must be an http or https address, such as http://127.0.0.1:8000/v1")
    return url.rstrip("/")


def _parts(value: object) -> object:
    """Split a text at commas; anything else is what it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


class UiSettings(ServiceSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(
        default=7860, ge=0, le=65_535, description="Port to listen on; 0: any free one"
    )
    gateway_url: Annotated[str, AfterValidator(_http_address)] = Field(
        default="http://127.0.0.1:8000/v1", description="Where models are asked"
    )
    login: Literal["auto", "required"] = Field(
        default="auto",
        description="auto: no key is asked for where the gateway asks for none and this page "
        "listens on loopback",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts)] = Field(
        default=(),
        description="Names under which the page may be opened, separated by commas; default: any, "
        "on loopback only its own",
    )
    session_hours: float = Field(
        default=12.0, gt=0, le=168, description="A login ends after so long"
    )
    idle_minutes: float = Field(
        default=60.0, gt=0, le=10_080, description="A login ends when its page was closed so long"
    )
    keep_closed_s: float = Field(
        default=120.0, ge=0, le=86_400, description="Uploads go when all pages were closed so long"
    )
    secure_cookie: bool = Field(
        default=False, description="The session's cookie is sent over https only; set it with TLS"
    )
    max_upload_mb: int = Field(
        default=20, ge=1, le=200, description="One uploaded image; the gateway takes 20"
    )
    temp_dir: Path | None = Field(
        default=None,
        description="Folder for uploads while their session lasts (default: one that goes with "
        "this process)",
    )
    benchmarks_dir: Path | None = Field(
        default=None, description="Folder of question files (*.jsonl) for the evaluation tab"
    )
    answer_timeout_s: float = Field(
        default=600.0, gt=0, le=3600, description="Longest silence of an answer"
    )
    at_once: int = Field(
        default=64, ge=1, le=1024, description="Answers that this page streams at once, at most"
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="The status tab reads with it where nobody is asked for a key and only this "
        "machine can open the page; `galen up` gives its own",
    )
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"

    @property
    def is_on_loopback(self) -> bool:
        """Whether only programs of this machine can open the page."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_local_only(self) -> bool:
        """Whether the page is meant for programs of this machine, and for no proxy before it."""
        return self.is_on_loopback and not self.allowed_hosts


def prepare_gradio(temp_dir: Path) -> None:
    """Tell Gradio, before it is imported, what it reads from the environment only.

    No analytics, no look for newer versions, no thread that phones home, and uploads in a folder of
    this process.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(temp_dir)
    os.environ["GRADIO_SSR_MODE"] = "False"
