"""How the commands of the documents are known to be right, in numbers: `python -m tests.docs`."""

from collections import Counter

from tests.docs.blocks import PAGES, Way, blocks_of


def main() -> None:
    """Print a line for each page and one for all."""
    total: Counter[Way | None] = Counter()
    for page in PAGES:
        found = Counter(block.way for block in blocks_of(page) for _ in block.commands or (1,))
        total += found
        if found:
            print(_line(page.name, found))
    print(_line("all", total))


def _line(name: str, found: Counter[Way | None]) -> str:
    return f"{name:<20}" + "".join(f"{way.value}: {found[way]:<6}" for way in Way)


if __name__ == "__main__":
    main()
