"""Tokens per second of the last minutes as a drawing that screen readers can tell. Pure."""

from collections.abc import Sequence

from services.ui.rates import KEPT_S, Point

_WIDTH, _HEIGHT, _TOP = 600.0, 120.0, 14.0
_LEAST_SCALE = 1.0


def history_chart(points: Sequence[Point]) -> str:
    """Return an SVG in the colour of the text around it; "": there is nothing to draw yet."""
    if len(points) < 2:
        return ""
    highest = max(point.tokens_per_s for point in points)
    scale = max(highest, _LEAST_SCALE)
    passed_s = points[0].ago_s
    passed = f"{passed_s / 60:.0f} minutes" if passed_s > 90 else f"{passed_s:.0f} s"
    told = (
        f"Generated tokens per second over the last {passed}, all models together: "
        f"now {points[-1].tokens_per_s:.1f}, at most {highest:.1f}."
    )
    lines = "".join(
        f'<polyline points="{" ".join(_place(point, scale) for point in stretch)}"/>'
        for stretch in _watched(points)
    )
    return (
        f'<figure class="history"><svg viewBox="0 0 {_WIDTH:g} {_HEIGHT + 18:g}" role="img" '
        f'aria-label="{told}"><g fill="none" stroke="currentColor">'
        f'<path d="M0 {_TOP:g}H{_WIDTH:g}M0 {_HEIGHT:g}H{_WIDTH:g}" opacity=".35"/>'
        f'<g stroke-width="1.6">{lines}</g></g><g fill="currentColor" font-size="11">'
        f'<text x="2" y="11">{scale:.0f} tokens/s</text>'
        f'<text x="2" y="{_HEIGHT + 13:g}">{KEPT_S / 60:.0f} minutes ago</text>'
        f'<text x="{_WIDTH - 2:g}" y="{_HEIGHT + 13:g}" text-anchor="end">now</text></g></svg>'
        f"<figcaption>{told}</figcaption></figure>"
    )


def _watched(points: Sequence[Point]) -> list[list[Point]]:
    """Return the stretches during which somebody looked."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if not point.is_joined:
            stretches.append([])
            continue
        stretches[-1].append(point)
    return [stretch for stretch in stretches if stretch]


def _place(point: Point, scale: float) -> str:
    x = _WIDTH * (1 - point.ago_s / KEPT_S)
    y = _HEIGHT - (_HEIGHT - _TOP) * point.tokens_per_s / scale
    return f"{x:.1f},{y:.1f}"
