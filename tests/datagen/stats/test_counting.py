"""Counts that are bounded, and samples with the same chance for each item."""

from collections import Counter

from datagen.stats import counting
from datagen.stats.counting import MOST_ROUNDS, NO_DOMAIN, Numbers, Roots, Tally
from datagen.stats.drawing import colours_of
from datagen.stats.items import Item, Said


def an_item(number: int, *domains: str, rounds: int = 1) -> Item:
    turns = (Said(is_question=True, text="Why?"), Said(is_question=False, text="It is so."))
    return Item(str(number), None, domains, turns * rounds)


def test_every_item_has_the_same_chance_to_be_shown() -> None:
    shown: Counter[str] = Counter()
    for seed in range(400):
        tally = Tally(5, seed)
        for number in range(20):
            tally.add(an_item(number))
        names = [item.name for item in tally.samples]
        assert names == sorted(names, key=int)
        shown.update(names)
    assert set(shown) == {str(number) for number in range(20)}
    assert all(60 < number < 140 for number in shown.values())  # 100 is expected


def test_an_item_of_several_domains_counts_in_each() -> None:
    tally = Tally(0, 0)
    tally.add(an_item(0, "histology", "gross"))
    tally.add(an_item(1))
    assert dict(tally.domain_counts()) == {
        "chest_xray": 0, "mri": 0, "histology": 1, "gross": 1, "ct_scan": 0, NO_DOMAIN: 1,
    }  # fmt: skip
    assert tally.num_with_several_domains == 1


def test_more_rounds_than_the_cap_count_as_the_cap_but_in_the_mean() -> None:
    tally = Tally(1, 0)
    tally.add(an_item(0, rounds=500))
    rounds = tally.rounds.histogram()
    assert (dict(rounds.counts), rounds.mean, rounds.most) == ({MOST_ROUNDS: 1}, 500, 500)
    (sample,) = tally.samples
    assert sample.turns[-1].text == "[976 more]"


def test_quantiles() -> None:
    counted = Numbers(100)
    for value in (1, 2, 3, 4, 100):
        counted.add(value)
    histogram = counted.histogram()
    assert [histogram.quantile(share) for share in (0.2, 0.5, 1.0)] == [1, 3, 100]
    assert Numbers(3).histogram().quantile(0.5) == 0


def test_nouns_over_the_limit_are_counted(monkeypatch) -> None:
    monkeypatch.setattr(counting, "MOST_NOUNS", 2)
    roots = Roots()
    for noun in ("lesion", "mass", "cyst", "lesion"):
        roots.add(f"Describe the {noun}.")
    assert roots.num_nouns_over == 1
    (share,) = roots.most_common(5, 5)
    assert (share.number, share.nouns) == (4, (("lesion", 2), ("mass", 1)))


def test_a_long_text_is_cut_for_a_reader() -> None:
    tally = Tally(1, 0)
    tally.add(Item("x", None, (), (Said(is_question=True, text="y" * 100_000),)))
    assert len(tally.samples[0].turns[0].text) < 2_000


def test_a_verb_has_one_colour_and_the_first_ten_differ() -> None:
    verbs = [f"v{number}" for number in range(25)]
    colours = colours_of([*verbs, *verbs])
    assert set(colours) == set(verbs)
    assert len({colours[verb] for verb in verbs[:20]}) == 20
