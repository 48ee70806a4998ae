"""Panels of the dashboards, on Grafana's own library for making them: the few kinds that we use.

What does *not* live here: which panels there are (`make_dashboards.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

SOURCE = DataSourceRef("prometheus", "galen-prometheus")
"""The data source of provisioning/datasources/prometheus.yml."""
WIDTH = 24
_HEIGHT, _STAT_HEIGHT = 8, 4


@dataclass(frozen=True, slots=True)
class Line:
    """One query of a panel; `legend` has Prometheus's labels in double braces."""

    expr: str
    legend: str = ""


def chart(
    title: str,
    description: str,
    unit: str,
    lines: Sequence[Line],
    *,
    width: int = 8,
    limit: float | None = None,
) -> timeseries.Panel:
    """Return a panel of lines over time.

    Args:
        limit: drawn as a dashed line: the objective, or where it gets tight.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(_HEIGHT)
        .line_width(1.5)
        .fill_opacity(8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            options.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)  # noqa: FBT003 - the library's way
            .calcs([])
        )
        .tooltip(
            options.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
    )
    if limit is not None:
        panel = panel.thresholds(_thresholds(limit)).thresholds_style(
            options.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    for ref_id, line in zip("ABCDEFGH", lines, strict=False):
        panel = panel.with_target(_query(line, ref_id))
    return panel


def number(
    title: str, description: str, unit: str, expr: str, *, limit: float | None = None
) -> stat.Panel:
    """Return a panel of one figure, as of now.

    Args:
        limit: it turns red from there on.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(_STAT_HEIGHT)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(Line(expr), "A"))
    )
    return panel if limit is None else panel.thresholds(_thresholds(limit))


def page(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """Return a dashboard without panels."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["galen"])
        .editable()
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("Galen")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["galen"])
            .as_dropdown(True)  # noqa: FBT003 - the library's way
        )
    )


def _query(line: Line, ref_id: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(line.expr).ref_id(ref_id).datasource(SOURCE).range()
    return query.legend_format(line.legend) if line.legend else query


def _thresholds(limit: float) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(color="green"), Threshold(color="red", value=limit)])
    )
