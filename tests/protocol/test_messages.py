"""Whatever can be said on the wire arrives as it was said; whatever cannot is named."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.protocol.messages import (
    PROTOCOL_VERSION,
    EventBatch,
    GenerationRequest,
    ImageRecipe,
    ProtocolError,
    Provenance,
    WorkerRecord,
    decode_events,
    decode_record,
    decode_request,
    encode,
)
from tests.protocol.parties import record, request

_text = st.text(max_size=40)
_counts = st.integers(0, 2**40)
_floats = st.floats(allow_nan=False)
st.register_type_strategy(float, _floats)
st.register_type_strategy(int, _counts)
st.register_type_strategy(str, _text)

_requests = st.from_type(GenerationRequest).map(
    lambda each: msgspec.structs.replace(each, version=PROTOCOL_VERSION)
)
_batches = st.from_type(EventBatch).map(
    lambda each: msgspec.structs.replace(each, version=PROTOCOL_VERSION)
)
_records = st.from_type(WorkerRecord).map(
    lambda each: msgspec.structs.replace(each, version=PROTOCOL_VERSION)
)


@given(_requests)
def test_request_arrives_as_it_was_sent(message: GenerationRequest):
    assert decode_request(encode(message)) == message


@given(_batches)
def test_events_arrive_as_they_were_sent(message: EventBatch):
    assert decode_events(encode(message)) == message


@given(_records)
def test_record_arrives_as_it_was_sent(message: WorkerRecord):
    assert decode_record(encode(message)) == message


def test_an_older_reader_understands_a_recipe_that_crops():
    """It knew three fields, and refuses others."""
    assert msgspec.to_builtins(ImageRecipe(336, 336, 336)) == {
        "shortest_edge_px": 336, "crop_width_px": 336, "crop_height_px": 336,
    }  # fmt: skip


def test_a_record_of_an_older_worker_says_nothing_of_where_its_model_comes_from():
    fields = msgspec.to_builtins(record("w1"))
    del fields["model"]["provenance"]
    read = decode_record(msgspec.msgpack.encode(fields))
    assert read.model.provenance == Provenance()


@given(st.binary(max_size=200))
def test_noise_is_a_protocol_error_and_nothing_else(noise: bytes):
    for decode in (decode_request, decode_events, decode_record):
        with pytest.raises(ProtocolError):
            decode(noise)


@given(_requests, st.data())
def test_torn_request_is_a_protocol_error(message: GenerationRequest, data: st.DataObject):
    payload = encode(message)
    length = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolError):
        decode_request(payload[:length])


@pytest.mark.parametrize("version", [0, 1, 10**6])
def test_another_version_is_a_protocol_error(version: int):
    newer = msgspec.structs.replace(request("r1"), version=version)
    with pytest.raises(ProtocolError, match="version"):
        decode_request(encode(newer))
    with pytest.raises(ProtocolError, match="version"):
        decode_events(encode(EventBatch(version, "w1", [])))
    with pytest.raises(ProtocolError, match="version"):
        decode_record(encode(msgspec.structs.replace(record("w1"), version=version)))


def test_unknown_field_is_a_protocol_error():
    fields = msgspec.to_builtins(request("r1")) | {"surprise": 1}
    with pytest.raises(ProtocolError):
        decode_request(msgspec.msgpack.encode(fields))
