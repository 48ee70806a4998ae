import pytest

from services.gateway.admission import admit
from services.gateway.catalogue import ModelCatalogue
from services.gateway.openai_schemas import ChatCompletionRequest, read_chat_request
from services.protocol.errors import ErrorCode, NotFoundError, RequestError
from services.protocol.messages import ModelCard, WorkerRecord

PLAIN = ModelCard("plain", "simple", 2048, 1, frozenset({"max_tokens"}), frozenset())
TEXT_ONLY = ModelCard("text", "simple", 2048, 0, frozenset({"n"}), frozenset())


@pytest.fixture
def catalogue() -> ModelCatalogue:
    catalogue = ModelCatalogue()
    records = [WorkerRecord(f"w-{c.id}", c, "ready", 8, 0, 0) for c in (PLAIN, TEXT_ONLY)]
    catalogue.update(records, records)
    return catalogue


def chat(model: str, **parameters: object) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": "hello"}]
    return read_chat_request({"model": model, "messages": messages, **parameters})


def test_request_gets_the_card_of_its_model(catalogue: ModelCatalogue) -> None:
    assert admit(chat("plain", max_tokens=5, stream=True, user="x"), catalogue).card == PLAIN
    assert admit(chat("text", n=2), catalogue).card == TEXT_ONLY


@pytest.mark.parametrize(
    "parameters",
    [{"n": 1}, {"temperature": 0}, {"logprobs": False}, {"stop": "x"}, {"seed": 0}, {"top_k": -1}],
)
def test_what_the_engine_cannot_do_is_refused_by_its_name(
    catalogue: ModelCatalogue, parameters: dict[str, object]
) -> None:
    with pytest.raises(RequestError) as caught:
        admit(chat("plain", **parameters), catalogue)

    (name,) = parameters
    assert (caught.value.code, caught.value.param) == (ErrorCode.UNSUPPORTED_PARAMETER, name)
    assert "simple" in caught.value.message


def test_null_asks_for_nothing(catalogue: ModelCatalogue) -> None:
    assert admit(chat("plain", n=None, temperature=None), catalogue).card == PLAIN


def test_unknown_model_is_told_which_there_are(catalogue: ModelCatalogue) -> None:
    with pytest.raises(NotFoundError, match="plain, text"):
        admit(chat("gpt-0"), catalogue)
