"""What a record is, of all that LLaVA-Med's files and ours hold, and what is wrong with it.

The schemas of docs/llava-med.md and docs/data.md. What does *not* live here: counting over a file
(`inspecting.py`), reading it (`records.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

from datagen.captions.columns import Columns, usual_columns
from datagen.captions.embedded import Embedded
from datagen.captions.figure_rows import caption_of, domains_in, image_of
from datagen.captions.figure_rows import id_of as row_id_of
from datagen.download.listing import is_safe_member, is_web_url
from datagen.errors import DataError
from datagen.figures import domains_of, figure_of, is_safe_name

Schema = Literal[
    "training items",
    "VQA items",
    "figures",
    "figures with results",
    "image list",
    "chat questions",
    "answers",
    "download manifest",
    "image table",
]
Record = Mapping[str, object]

_MISSPELT = "conversatons"  # in early files of LLaVA-Med, whose readers take both
_IMAGE_MARK = "<image>"
_ANSWER_TYPES = ("OPEN", "CLOSED")
_STATUSES = ("done", "missing", "failed")
_MOST_NAME_CHARS = 1000
_WITHOUT_ID = ("VQA items", "image table")  # where an id need not be


def schema_of(record: Record) -> Schema | None:
    """Return what a record is by its keys; None: nothing that is known."""
    keys = record.keys()
    if keys & {"conversations", _MISSPELT}:
        return "VQA items" if "answer_type" in keys else "training items"
    if keys >= {"pmc_tar_url", "image_file_path"}:
        return "image list"
    if keys >= {"question_id", "text"}:
        return "answers" if keys & {"answer_id", "model_id"} else "chat questions"
    if keys >= {"pair_id", "fig_caption"}:
        return "figures with results" if "result" in keys else "figures"
    if keys >= {"pair_id", "status", "url"}:
        return "download manifest"
    return "image table" if _columns_of(record) else None


def id_of(record: Record, schema: Schema) -> str | None:
    """Return what must occur once in a file; None: there is none of a fitting type."""
    match schema:
        case "training items" | "VQA items":
            value = record.get("id")
        case "chat questions" | "answers":
            value = record.get("question_id")
        case "image table":
            columns = _columns_of(record)
            value = record.get(columns.id) if columns and columns.id else None
        case _:
            value = record.get("pair_id")
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_id and value != "" else None


def problems_of(record: Record, schema: Schema, group: str | None) -> Iterator[str]:
    """Yield kinds of problems, in words that quote nothing of a record.

    Args:
        group: name of the list in which it stands.
    """
    if id_of(record, schema) is None and schema not in _WITHOUT_ID:
        yield "no id"
    if schema in {"figures", "figures with results"}:
        yield from _figure_problems(record, group)
    else:
        yield from _RULES[schema](record)


def domains_told(record: Record, schema: Schema, group: str | None) -> tuple[str, ...]:
    """Return the domains of a record, or of the list in which it stands."""
    if schema != "image table":
        return domains_of(record.get("domain"), group)
    columns = _columns_of(record)
    return domains_in(record, columns.domain if columns else None).names


def num_rounds(record: Record) -> int | None:
    """Return how many questions a conversation has; None: it is none."""
    turns = _turns(record)
    return None if turns is None else len(turns) // 2


def has_misspelt_key(record: Record) -> bool:
    """Whether its conversation stands under the misspelt name."""
    return _MISSPELT in record and "conversations" not in record


def _columns_of(record: Record) -> Columns | None:
    return usual_columns(tuple(record))


def _turns(record: Record) -> Sequence[object] | None:
    value = record.get("conversations", record.get(_MISSPELT))
    return cast("list[object]", value) if isinstance(value, list) else None


def _conversation_problems(record: Record) -> Iterator[str]:
    turns = _turns(record)
    if not turns:
        yield "no conversation"
        return
    texts: list[str] = []
    for number, turn in enumerate(turns):
        told: Record = cast("Record", turn) if isinstance(turn, Mapping) else {}
        value = told.get("value")
        if not isinstance(value, str | int):
            yield "a turn without a text"
            return
        if told.get("from") != ("human", "gpt")[number % 2]:
            yield "turns are not human and gpt in turn"
            return
        texts.append(str(value))
    if len(turns) % 2:
        yield "a question without an answer"
    if not all(text.strip() for text in texts):
        yield "an empty turn"
    has_image = record.get("image") is not None
    if has_image:
        yield from _image_problems(record)
    marks = [text.count(_IMAGE_MARK) for text in texts]
    if has_image and marks[0] != 1:
        yield "not one <image> in the first question"
    if not has_image and any(marks):
        yield "<image> without an image"


def _image_problems(record: Record) -> Iterator[str]:
    image = record.get("image")
    if not isinstance(image, str) or not 0 < len(image) <= _MOST_NAME_CHARS:
        yield "image is no name of a file"
    elif not is_safe_member(image):
        yield "image leaves its folder"


def _figure_problems(record: Record, group: str | None) -> Iterator[str]:
    try:
        figure = figure_of(record, group)
    except DataError as error:
        yield str(error)
        return
    if not figure.domains:
        yield "no domain"
    result = record.get("result", "")
    if not isinstance(result, str) or ("result" in record and not result.strip()):
        yield "an empty result"


def _image_list_problems(record: Record) -> Iterator[str]:
    pair_id, url, member = (
        record.get(key) for key in ("pair_id", "pmc_tar_url", "image_file_path")
    )
    if isinstance(pair_id, str) and not is_safe_name(pair_id):
        yield "pair_id is no name of a file"
    if not isinstance(url, str) or not is_web_url(url):
        yield "pmc_tar_url is no http or https URL"
    if not isinstance(member, str) or not 0 < len(member) <= _MOST_NAME_CHARS:
        yield "image_file_path is no name"
    elif not is_safe_member(member):
        yield "image_file_path leaves its folder"


def _text_problems(record: Record) -> Iterator[str]:
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        yield "an empty text"


def _vqa_problems(record: Record) -> Iterator[str]:
    yield from _conversation_problems(record)
    if record.get("answer_type") not in _ANSWER_TYPES:
        yield "answer_type is neither OPEN nor CLOSED"


def _question_problems(record: Record) -> Iterator[str]:
    yield from _text_problems(record)
    if "image" in record:
        yield from _image_problems(record)


def _manifest_problems(record: Record) -> Iterator[str]:
    if record.get("status") not in _STATUSES:
        yield "status is none of done, missing, failed"


def _row_problems(record: Record) -> Iterator[str]:
    columns = _columns_of(record)
    if columns is None:
        return
    for part in (_caption_part, _id_part, _image_part):
        try:
            yield from part(record, columns)
        except DataError as error:
            yield str(error)


def _caption_part(record: Record, columns: Columns) -> Iterator[str]:
    caption_of(record, columns)
    return iter(())


def _id_part(record: Record, columns: Columns) -> Iterator[str]:
    row_id_of(record, columns.id)
    return iter(())


def _image_part(record: Record, columns: Columns) -> Iterator[str]:
    image = image_of(record, columns)
    return iter(()) if isinstance(image, Embedded) else _image_problems({"image": image})


_RULES: Mapping[str, Callable[[Record], Iterator[str]]] = {
    "training items": _conversation_problems,
    "VQA items": _vqa_problems,
    "image list": _image_list_problems,
    "chat questions": _question_problems,
    "answers": _text_problems,
    "download manifest": _manifest_problems,
    "image table": _row_problems,
}
