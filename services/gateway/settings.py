"""Settings of the gateway: environment variables with the prefix `GALEN_GATEWAY_`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import NoDecode, SettingsConfigDict

from modeling.medical_images.choice import BurnedIn
from services.gateway.moderation_rules import read_rules
from services.gateway.url_policy import HostRule, IpNetwork, read_rule
from services.protocol.keys import why_no_redis_address
from services.settings_guard import ServiceSettings
from services.telemetry import LogFormat, LogLevel
from services.tracing.opening import TracesUrl

ENV_PREFIX = "GALEN_GATEWAY_"

AuthMode = Literal["auto", "required", "off"]


def _redis_address(url: SecretStr) -> SecretStr:
    if problem := why_no_redis_address(url.get_secret_value()):
        raise ValueError(problem)
    return url


def _parts(value: object) -> object:
    """Split a text at commas; anything else is what it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _host_rules(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(read_rule(part) for part in value.split(",") if part.strip())


def _readable_rules(path: Path) -> Path:
    try:
        read_rules(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return path


def _known_recipes(by_model: dict[str, str]) -> dict[str, str]:
    if by_model:
        # it brings Pillow with it, which commands that only check settings need not load
        from modeling.medical_images.recipes import RECIPES  # noqa: PLC0415

        for model, name in by_model.items():
            if name not in RECIPES:
                raise ValueError(
                    f"{model}: there is no recipe {name!r}; there are {', '.join(RECIPES)}"
                )
    return by_model


def _above_the_soft_share(hard: float, info: ValidationInfo) -> float:
    soft = info.data.get("memory_soft_share")  # none: it is wrong itself
    if soft is not None and soft >= hard:
        raise ValueError(f"it is {hard}, and must be above the memory_soft_share of {soft}")
    return hard


class GatewaySettings(ServiceSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    redis_url: Annotated[SecretStr, AfterValidator(_redis_address)] = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// address",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65_535, description="Port to listen on; 0: any free one"
    )
    max_waiting: int = Field(
        default=4096,
        ge=1,
        description="Requests that may wait per model and lane; beyond: 503 overloaded",
    )
    tenant_weights: dict[str, Annotated[float, Field(ge=0.01, le=100)]] = Field(
        default={},
        description="Share of the tokens by tenant where they compete, as JSON; 1 for all others",
    )
    image_affinity: bool = Field(
        default=True,
        description="Questions on one image go to one worker, which may still hold its features",
    )
    request_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest life of a request, waiting included"
    )
    ping_after_s: float = Field(
        default=10.0,
        gt=0,
        description="A stream silent for so long gets a comment, so that no proxy cuts it",
    )
    stalled_client_s: float = Field(
        default=30.0, gt=0, description="A client that reads nothing for so long is cut"
    )
    max_body_bytes: int = Field(
        default=32 << 20, ge=1024, description="Largest body of a chat request"
    )
    head_timeout_s: float = Field(
        default=10.0, gt=0, description="Longest time to receive a request's headers"
    )
    body_timeout_s: float = Field(default=30.0, gt=0, description="Longest time to receive a body")
    upload_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest time to receive a file"
    )
    max_image_bytes: int = Field(
        default=20 << 20, ge=1024, description="Largest image, decoded base64"
    )
    max_images: int = Field(default=16, ge=1, le=256, description="Most images of one request")
    image_cache_bytes: int = Field(
        default=32 << 20,
        ge=0,
        description="Preprocessed images kept to be sent again without decoding",
    )
    decoder_processes: int = Field(
        default=2, ge=1, le=64, description="Child processes that decode images"
    )
    burned_in: BurnedIn = Field(
        default="block",
        description="DICOM with text in its pixels, sent without a key: block, mask or allow",
    )
    burned_in_heuristic: bool = Field(
        default=False,
        description="Also suspect ultrasound and screen captures with lines of text in a margin",
    )
    image_recipes: Annotated[dict[str, str], AfterValidator(_known_recipes)] = Field(
        default={},
        description="Recipe by model for DICOM and NIfTI, as JSON; a request's own choice counts",
    )
    image_hosts: Annotated[tuple[HostRule, ...], NoDecode, BeforeValidator(_host_rules)] = Field(
        default=(),
        description="Hosts that images may be fetched from, with commas between them; none: off",
    )
    image_networks: Annotated[tuple[IpNetwork, ...], NoDecode, BeforeValidator(_parts)] = Field(
        default=(),
        description="Private networks that those hosts may be in, such as 10.1.0.0/16",
    )
    vision_days: int = Field(
        default=30, ge=0, le=36_500, description="Days that uploaded images are kept; 0: for ever"
    )
    drain_delay_s: float = Field(
        default=0.5,
        ge=0,
        description="After SIGTERM: time to be seen as not ready, while requests are served, "
        "before the port closes",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="After SIGTERM: time for running requests to end"
    )
    admin_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Key of the routes under /v1/admin, which answer 403 without it",
    )
    memory_limit_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory of the gateway's process; 0: what its control group allows, or any",
    )
    memory_soft_share: float = Field(
        default=0.80,
        gt=0,
        le=1,
        description="Of that memory; beyond: 503 for images and large bodies",
    )
    memory_hard_share: Annotated[float, AfterValidator(_above_the_soft_share)] = Field(
        default=0.92,
        gt=0,
        le=1,
        description="Of that memory; beyond: 503 for everything but the health routes",
    )
    moderation_rules: Annotated[Path, AfterValidator(_readable_rules)] | None = Field(
        default=None, description="File of phrases that are refused; see docs/operations.md"
    )
    moderation_url: Annotated[str, Field(pattern="^https?://")] | None = Field(
        default=None, description="Endpoint like OpenAI's /v1/moderations that is asked first"
    )
    moderation_key: SecretStr | None = Field(
        default=None, description="Bearer key of that endpoint"
    )
    moderation_model: str | None = Field(
        default=None, description="Model that the endpoint is asked for; none: its own choice"
    )
    moderation_timeout_s: float = Field(
        default=2.0, gt=0, le=60, description="Longest time of one check"
    )
    moderation_fails: Literal["closed", "open"] = Field(
        default="closed",
        description="Where a check cannot be made: closed refuses with 503, open lets pass",
    )
    auth: AuthMode = Field(
        default="auto",
        description="required: a key for every request; off: for none; auto: required once the "
        "first key was made, and wherever others than this machine can reach",
    )
    metrics_tenants: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Tenants with time series of their own in /metrics; further ones are `other`",
    )
    traces_url: TracesUrl = Field(
        default=None,
        description="OTLP/HTTP address that spans are sent to, such as "
        "http://collector:4318/v1/traces; needs the extra `tracing`; default: none",
    )
    traces_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Of the requests that come without a trace; others are as their caller says",
    )
    open_metrics: bool = Field(default=False, description="/metrics asks for no key")
    audit: Literal["off", "best_effort", "required"] = Field(
        default="best_effort",
        description="Record who asked what; required: nothing is answered that cannot be recorded",
    )
    audit_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Key of the hashes of prompts in the audit, the same for all gateways; "
        "without it they can be compared within one process's life only",
    )
    audit_days: int = Field(
        default=0, ge=0, le=36_500, description="Days that the audit is kept; 0: for ever"
    )
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"
