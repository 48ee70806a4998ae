import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.launcher.feedback_records import Splitter

GROUPS = st.lists(
    st.lists(st.sampled_from([f"s{n}" for n in range(30)]), min_size=1, max_size=4), max_size=30
)


def split_all(votes: list[list[str]], **options: object) -> dict[str, str]:
    splitter = Splitter(**{"validation": 0.3, "test": 0.3, **options})  # pyright: ignore[reportArgumentType] - by name
    for groups in votes:
        splitter.join(groups)
    return {group: splitter.split_of(group) for groups in votes for group in groups}


@given(GROUPS)
def test_what_is_joined_is_in_one_split(votes: list[list[str]]) -> None:
    places = split_all(votes)

    assert all(len({places[group] for group in groups}) == 1 for groups in votes)


@given(GROUPS, st.randoms())
def test_the_order_of_votes_does_not_matter(votes: list[list[str]], random) -> None:
    shuffled = [random.sample(groups, len(groups)) for groups in votes]
    random.shuffle(shuffled)

    assert split_all(votes) == split_all(shuffled)


def test_a_subject_stays_where_it_is_when_others_come() -> None:
    few = split_all([[f"subject-{n}"] for n in range(50)])
    many = split_all([[f"subject-{n}"] for n in range(500)])

    assert few.items() <= many.items()


@pytest.mark.parametrize("added", ["image\0" + "0" * 64, "image\0" + "f" * 64])
def test_a_subject_stays_where_it_is_when_it_gets_one_more_image(added: str) -> None:
    votes = [[f"subject\0clinic\0{n}", f"image\0{n * 97:064x}"] for n in range(1, 100)]
    before = split_all(votes)

    for subject, image in votes:
        after = split_all([*votes, [subject, added]])
        assert (after[subject], after[image]) == (before[subject], before[image])


def test_without_a_subject_the_smallest_image_decides() -> None:
    joined = split_all([["image\0c", "image\0b"], ["image\0b", "image\0a"]])

    assert joined["image\0c"] == split_all([["image\0a"]])["image\0a"]


def test_shares_are_kept_over_many_subjects_and_a_salt_divides_otherwise() -> None:
    votes = [[f"subject-{n}"] for n in range(5000)]
    places = list(split_all(votes, validation=0.2, test=0.1).values())

    assert abs(places.count("validation") / 5000 - 0.2) < 0.02
    assert abs(places.count("test") / 5000 - 0.1) < 0.02
    assert places != list(split_all(votes, validation=0.2, test=0.1, salt="x").values())


def test_without_shares_all_is_for_training() -> None:
    assert set(split_all([["a"], ["b"]], validation=0.0, test=0.0).values()) == {"train"}
