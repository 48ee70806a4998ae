"""What is chosen in which order, what is asked, and what a reply is worth."""

import json
from collections import Counter
from pathlib import Path

import pytest

from datagen.figures import DOMAINS, figure_of
from datagen.instruct.examples import EXAMPLES
from datagen.instruct.prompts import VERSION, Wording, as_text
from datagen.instruct.replies import UnusableError, conversation_in
from datagen.instruct.run_files import Totals
from datagen.instruct.sampling import Selection
from services.endpoint_client.client import Reply
from services.endpoint_client.record_file import RecordFile
from tests.datagen.instruct.figures import record, write
from tests.golden_files import GoldenFiles


def chosen(path: Path, domains: tuple[str, ...] = (), most: int | None = None) -> list[str]:
    with Selection(path, path.parent, domains, most) as selection:
        assert [sample.id for sample in selection.samples()] == selection.ids
        return [name[:5].lstrip("0") for name in selection.ids]


def test_domains_take_turns_and_the_longest_ends_alone(tmp_path: Path):
    given = [
        record(1, "mri"), record(2, "mri"), record(3, "mri"), record(4, "chest_xray"),
        record(5, "ct_scan"), record(6, "ct_scan"), record(7, domain=None),
    ]  # fmt: skip
    path = write(tmp_path / "f", given)
    assert chosen(path) == ["4", "1", "5", "7", "2", "6", "3"]
    assert chosen(path, most=3) == ["4", "1", "5"]
    assert chosen(path, ("ct_scan", "mri")) == ["1", "5", "2", "6", "3"]


def test_figure_of_several_domains_is_asked_about_once(tmp_path: Path):
    both = record(1, "gross", "histology")
    lists = {"histology": [both, record(2, "histology")], "gross": [both, record(3, "gross")]}
    path = tmp_path / "f"
    path.write_text(json.dumps(lists))
    assert chosen(path) == ["1", "3", "2"]
    assert chosen(path, ("gross",)) == ["1", "3"]


def test_examples_are_eight_over_five_domains_with_three_rounds_each():
    counts = Counter(example.domain for example in EXAMPLES)
    assert counts == {"chest_xray": 2, "ct_scan": 1, "gross": 2, "histology": 2, "mri": 1}
    assert set(counts) == set(DOMAINS)
    assert {bool(example.mentions) for example in EXAMPLES} == {True, False}
    for example in EXAMPLES:
        assert len(example.turns) == 3
        said = as_text(example.turns).lower()
        assert not [word for word in ("caption", "mentioned", "context", "text") if word in said]


@pytest.mark.parametrize("is_structured", [False, True])
def test_prompt_is_the_one_of_its_version(golden: GoldenFiles, *, is_structured: bool):
    figure = figure_of(record(1, fig_label="Figure 9", in_text_mention=["Seen in Figure 9."]))
    messages = Wording().messages(figure, is_structured=is_structured)
    shown = "\n\n".join(f"[{each['role']}]\n{each['content']}" for each in messages)
    name = f"{VERSION}-{'json' if is_structured else 'text'}.txt"
    golden.check(f"prompts/{name}", f"{Wording().sha256}\n\n{shown}\n")


def test_mentions_are_left_out_where_told_so():
    figure = figure_of(record(1))
    assert "In the article" in Wording(True).messages(figure, is_structured=False)[-1]["content"]
    assert "In the article" not in str(Wording(False).messages(figure, is_structured=False))
    assert Wording(True).sha256 != Wording(False).sha256


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, finish_reason, 1, 1, 0.1)


@pytest.mark.parametrize(
    "text",
    [
        "User: A?\n\nAssistant: B.",
        "Here it is:\nUser: A?\nAssistant: B.",
        "**User:** A?\n\n**Assistant:** B.",
        "User: A?\n\nAssistant: B.\n\nUser: and then",
    ],
)
def test_text_with_a_round_is_kept_as_it_is(text: str):
    found = conversation_in(reply(text))
    assert (found.text, found.turns) == (text, None)


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n```"])
def test_json_is_kept_as_turns(fence: str):
    content = json.dumps({"turns": [{"question": " A? ", "answer": "B."}, {"question": 1}]})
    found = conversation_in(reply(fence.replace("{}", content)))
    assert found.turns == (("A?", "B."),)
    assert found.text == "User: A?\n\nAssistant: B."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("  ", "empty"),
        ("Sorry, no.", "no conversation"),
        ("User: A?", "no conversation"),
        ("User: A?\n\nAssistant:  ", "no conversation"),
        ("Assistant: B.\n\nUser: A?", "no conversation"),
        ('{"turns": []}', "no conversation"),
        ('{"turns": 3}', "no conversation"),
        ("[1]", "no conversation"),
        ("<html>", "no conversation"),
    ],
)
def test_reply_without_a_round_is_none(text: str, why: str):
    with pytest.raises(UnusableError, match=why):
        conversation_in(reply(text))


def test_file_of_records_may_hold_keys_alone(tmp_path: Path):
    totals = Totals()
    lines = [{"id": "a", "generation": {"cost": 2}}, {"id": "a", "generation": {"cost": 3}}]
    path = write(tmp_path / "f", lines)
    with RecordFile(path, "id", visit=totals.add) as file:
        assert totals.cost == 2
        file.add({"id": "b", "text": "long"})
        assert "b" in file
        assert not any(file.records.values())
