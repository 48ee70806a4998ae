"""A table as HTML: escaped, with a caption and headers for screen readers. Pure."""

import html
from collections.abc import Iterable, Sequence


def html_table(
    caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]], empty: str
) -> str:
    """Return a table whose first column names its rows.

    Args:
        empty: what is said where there are no rows.
    """
    lines = [_row(cells) for cells in rows]
    name = html.escape(caption)
    if not lines:
        return f"<h2>{name}</h2><p>{html.escape(empty)}</p>"
    heads = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    # a wide table scrolls by itself, also by the keyboard, and the page does not
    return (
        f'<div class="wide" role="region" aria-label="{name}" tabindex="0"><table>'
        f"<caption>{name}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *others = map(html.escape, cells)
    rest = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{rest}</tr>'
