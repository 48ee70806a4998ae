import json
from pathlib import Path

import pytest

from modeling.checkpoint_files import open_checkpoint, sampled_fingerprint
from modeling.tiny import make_tiny_llava
from services.launcher.adapter_check import check_adapter
from services.launcher.terminal import CommandError
from tests.support.adapters import make_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "chest", seed=1)


def test_check_says_what_a_worker_would_find(base: Path, adapter: Path) -> None:
    lines = "\n".join(check_adapter(adapter, base, 64))

    assert "a worker takes it" in lines
    assert "name: llava:chest" in lines
    assert "rank: 4, of at most 64" in lines
    assert "modules: 12, " in lines
    assert "base: unverified" in lines


def test_fingerprint_that_it_prints_verifies_the_base(base: Path, adapter: Path) -> None:
    unverified = check_adapter(adapter, base, 64)[-1]
    fingerprint = sampled_fingerprint(open_checkpoint(base))
    assert f'"base_fingerprint": "{fingerprint}"' in unverified

    manifest = adapter / "galen_adapter.json"
    manifest.write_text(json.dumps({"base_fingerprint": fingerprint}))
    try:
        assert check_adapter(adapter, base, 64)[-1].startswith("base: verified")
    finally:
        manifest.unlink()


def test_what_a_worker_would_refuse_is_an_error(base: Path, adapter: Path) -> None:
    with pytest.raises(CommandError, match="rank 4, this worker takes 2"):
        check_adapter(adapter, base, 2)
    with pytest.raises(CommandError, match="no directory"):
        check_adapter(adapter, base / "nowhere", 64)


def test_path_that_no_file_system_takes_is_an_error(base: Path, adapter: Path) -> None:
    too_long = Path(f"/{'a' * 300}")
    with pytest.raises(CommandError, match="is not readable"):
        check_adapter(too_long / "chest", base, 64)
    with pytest.raises(CommandError, match="is not readable"):
        check_adapter(adapter, too_long, 64)
