"""What `galen up` is asked to run: options before variables before the demo."""

from pathlib import Path

import pytest
import typer

from services.launcher.model_argument import name_and_folder
from services.launcher.wishes import EngineChoice, demo_wish, read_wishes


def names_and_paths(*models: str, engine: EngineChoice = "auto") -> list[tuple[str, str]]:
    return [(wish.model_id, wish.path) for wish in read_wishes(models, engine, {})]


def test_folder_gives_its_own_name_unless_one_is_said(tmp_path: Path) -> None:
    found = names_and_paths(str(tmp_path / "a"), f"med={tmp_path}/b")

    assert found == [("a", str(tmp_path / "a")), ("med", str(tmp_path / "b"))]


def test_model_argument_that_no_file_system_takes_is_no_folder() -> None:
    assert name_and_folder(f"a=/{'b' * 300}") == ("a", f"/{'b' * 300}")


def test_folder_with_an_equals_sign_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()

    assert names_and_paths(str(folder)) == [("a=b", str(folder))]


def test_fake_engine_takes_names() -> None:
    assert names_and_paths("a", "b", engine="fake") == [("a", ""), ("b", "")]
    assert names_and_paths(engine="fake") == [("fake", "")]


@pytest.mark.parametrize(
    ("models", "engine", "said"),
    [
        (["a", "./a"], "auto", "comes twice"),
        (["=/a"], "auto", "'' cannot be a model's name"),
        (["/my model"], "auto", r"'my model' cannot be .* no spaces.* NAME=DIR"),
        (["a\x07=/a"], "auto", "control characters"),
        (["two words"], "fake", "no spaces"),
        (["a=/a"], "fake", "no checkpoint"),
        (["."], "fake", "no checkpoint"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    models: list[str], engine: EngineChoice, said: str
) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        read_wishes(models, engine, {})


def test_variables_of_a_worker_say_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GALEN_WORKER_MODEL_PATH", str(tmp_path / "a"))
    assert names_and_paths() == [("a", str(tmp_path / "a"))]

    monkeypatch.setenv("GALEN_WORKER_MODEL_ID", "named")
    assert names_and_paths() == [("named", str(tmp_path / "a"))]
    assert names_and_paths(engine="fake") == [("named", "")]
    assert names_and_paths("/b") == [("b", "/b")]
    assert demo_wish("auto", {}).model_id == "named"


def test_without_any_the_demo_is_meant() -> None:
    assert names_and_paths() == []
    assert demo_wish("auto", {}).model_id == "galen-demo"


def test_overrides_hold_for_every_model() -> None:
    wishes = read_wishes(["/a", "/b"], "vllm", {"workers": 2, "quantization": None})

    assert [(w.engine, w.workers, w.quantization) for w in wishes] == [("vllm", 2, None)] * 2
