"""Settings from files of secrets; variables: tests/contracts/test_repository.py."""

from pathlib import Path

import pytest

from services.gateway.settings import GatewaySettings
from services.settings_guard import settings_or_exit, unknown_variables
from services.store.settings import StoreSettings

URL = "redis://gateway:secret@redis:6379/0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where secrets are looked for."""
    monkeypatch.setenv("GALEN_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_setting_is_read_from_its_file(folder: Path) -> None:
    (folder / "galen_gateway_redis_url").write_text(f"{URL}\n", encoding="utf-8")
    (folder / "galen_store_key_pepper").write_text("p" * 64, encoding="utf-8")

    gateway, store = settings_or_exit(GatewaySettings, "gateway"), StoreSettings()

    assert gateway.redis_url.get_secret_value() == URL
    assert store.key_pepper is not None
    assert store.key_pepper.get_secret_value() == "p" * 64


def test_a_variable_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "galen_gateway_redis_url").write_text(URL, encoding="utf-8")
    monkeypatch.setenv("GALEN_GATEWAY_REDIS_URL", "redis://elsewhere:6379/0")

    assert GatewaySettings().redis_url.get_secret_value() == "redis://elsewhere:6379/0"


def test_a_misspelt_secret_is_told(folder: Path) -> None:
    (folder / "galen_gateway_redis_ulr").write_text(URL, encoding="utf-8")

    (line,) = unknown_variables(GatewaySettings)

    assert line.startswith("unknown secret galen_gateway_redis_ulr")
    assert "GALEN_GATEWAY_REDIS_URL" in line


def test_a_bad_secret_ends_the_start_without_being_quoted(folder: Path) -> None:
    (folder / "galen_gateway_redis_url").write_text("http://gateway:secret@redis", "utf-8")

    with pytest.raises(SystemExit) as ended:
        settings_or_exit(GatewaySettings, "gateway")

    assert "GALEN_GATEWAY_REDIS_URL" in str(ended.value)
    assert "secret@" not in str(ended.value)


def test_without_a_folder_there_are_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALEN_SECRETS_DIR", str(folder / "none"))

    assert unknown_variables(GatewaySettings) == []
