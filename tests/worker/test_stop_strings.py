from hypothesis import given
from hypothesis import strategies as st

from services.worker.engines.stop_strings import StopStringMatcher

SMALL = "ab.é\N{FACE WITH TEARS OF JOY}"
texts = st.text(SMALL, max_size=30)
stop_lists = st.lists(st.text(SMALL, min_size=1, max_size=5), max_size=4)


@st.composite
def chunked_texts(draw: st.DrawFn) -> list[str]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def cut_whole(text: str, stops: list[str]) -> str:
    """Push character by character what a stream knows: the first stop string to be complete wins,
    among those complete at the same character the one that begins first."""
    for end in range(len(text) + 1):
        ending = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: min(ending)]
    return text


@given(chunked_texts(), stop_lists)
def test_chunks_are_cut_like_the_whole_text(chunks: list[str], stops: list[str]) -> None:
    matcher = StopStringMatcher(stops)
    released = ""
    for chunk in chunks:
        released += matcher.push(chunk)
        if matcher.matched is not None:
            break
    else:
        released += matcher.flush()
    assert released == cut_whole("".join(chunks), stops)


@given(chunked_texts(), stop_lists)
def test_what_is_released_is_never_taken_back(chunks: list[str], stops: list[str]) -> None:
    matcher = StopStringMatcher(stops)
    released = ""
    for chunk in chunks:
        released += matcher.push(chunk)
        assert not any(stop in released for stop in stops)
        if matcher.matched is not None:
            assert matcher.matched in stops
            break
    assert "".join(chunks).startswith(released)


@given(chunked_texts())
def test_nothing_is_held_back_without_stop_strings(chunks: list[str]) -> None:
    matcher = StopStringMatcher(())
    assert [matcher.push(chunk) for chunk in chunks] == chunks


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopStringMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("T") == "ENT"
    assert matcher.push(" EN") == " "
    assert matcher.flush() == "EN"
