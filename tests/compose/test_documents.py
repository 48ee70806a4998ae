"""Commands of the documents for Compose, as they stand (`documents.py`)."""

import json
from pathlib import Path

from openai import OpenAI

from tests.compose.composition import FAKE_MODEL, MINIATURE, SERVICES, Composition
from tests.compose.documents import run_documented


def models_with(url: str, key: str) -> set[str]:
    with OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        return {model.id for model in client.models.list()}


def test_the_first_commands_bring_it_up_and_print_a_key(
    composition: Composition, gateway_url: str, tmp_path: Path
) -> None:
    printed = [
        run_documented(composition, "README.md", "docker compose up", tmp_path),
        run_documented(composition, "deployment.md", "docker compose up", tmp_path),
    ]

    composition.wait_healthy()
    keys = [text.split()[-1] for text in printed]
    assert len(set(keys)) == 2
    for key in keys:
        assert models_with(gateway_url, key) == {FAKE_MODEL, MINIATURE}


def test_the_quickstart_lists_the_model(composition: Composition, tmp_path: Path) -> None:
    printed = run_documented(composition, "quickstart.md", "docker compose up", tmp_path)

    listed = json.loads(printed.splitlines()[-1])
    assert MINIATURE in {model["id"] for model in listed["data"]}


def test_the_quickstart_asks_about_a_scan(
    composition: Composition, api_key: str, tmp_path: Path
) -> None:
    printed = run_documented(
        composition, "quickstart.md", "curl", tmp_path, {"GALEN_API_KEY": api_key}
    )

    assert "CT" in json.loads(printed)["choices"][0]["message"]["content"]


def test_the_first_question_is_answered(
    composition: Composition, api_key: str, tmp_path: Path
) -> None:
    printed = run_documented(
        composition, "deployment.md", "curl", tmp_path, {"GALEN_API_KEY": api_key}
    )

    assert json.loads(printed)["choices"][0]["message"]["content"]


def test_a_secret_is_shown(composition: Composition, tmp_path: Path) -> None:
    printed = run_documented(composition, "deployment.md", "docker compose run", tmp_path)

    assert len(printed.split()[-1]) == 64


def test_there_are_as_many_workers_on_the_cpu_as_one_says(
    composition: Composition, tmp_path: Path
) -> None:
    try:
        run_documented(composition, "deployment.md", "GALEN_CPU_WORKERS=2", tmp_path)
        composition.wait_healthy()
        assert len(composition.containers("worker")) == 2

        composition.environment["GALEN_CPU_WORKERS"] = "0"  # as beside workers on cards
        composition.compose("up", "--detach", "--no-build")
        composition.wait_healthy([name for name in SERVICES if name != "worker"])
        assert composition.containers("worker") == []
    finally:
        composition.environment.pop("GALEN_CPU_WORKERS", None)
        composition.up()
    assert len(composition.containers("worker")) == 1
