"""The dashboard as Grafana imports it, written with Grafana's own builders (grafana-foundation-sdk)."""

import json
from itertools import groupby
from typing import TypeVar

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    FieldColor,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.dashboard import Row as RowBuilder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

from deploy.monitoring.panel import Look, Panel
from deploy.monitoring.queries import Query
from deploy.monitoring.table import PANELS

RUNS = "label_values(advdmd_run_info, run)"
"""Where the reader's choice of runs comes from."""
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
Built = TypeVar("Built", timeseries.Panel, stat.Panel)
_HEIGHTS = {Look.LINES: 8, Look.LOG_LINES: 8, Look.NUMBER: 5, Look.NAME: 5}


def dashboard() -> str:
    """The whole dashboard as JSON, with the panels of the table in its order."""
    built = (
        Dashboard("AdvDMD")
        .uid("advdmd")
        .tags(["advdmd"])
        .description("Runs of advdmd_ray. Written by `make monitoring` from deploy/monitoring/table/.")
        .editable()
        .refresh("5s")
        .time("now-15m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("run")
            .label("Runs")
            .datasource(_SOURCE)
            .query({"query": RUNS, "refId": "run"})
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
        )
    )
    for row, panels in groupby(PANELS, lambda panel: panel.row):
        built.with_row(RowBuilder(row))
        for panel in panels:
            built.with_panel(_lines(panel) if panel.look in {Look.LINES, Look.LOG_LINES} else _number(panel))
    panels = built.build()
    for number, panel in enumerate(panels.panels or (), start=1):
        panel.id_val = number
    return json.dumps(panels, cls=JSONEncoder, indent=2) + "\n"


def _lines(panel: Panel) -> timeseries.Panel:
    """Over time."""
    built = (
        _common(timeseries.Panel(), panel)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.look is Look.LOG_LINES:
        built.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    if panel.bad_from is not None:
        built.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.AREA))
    return built


def _number(panel: Panel) -> stat.Panel:
    """The newest value of each query, or what the query is called."""
    built = (
        _common(stat.Panel(), panel)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .text_mode(BigValueTextMode.NAME if panel.look is Look.NAME else BigValueTextMode.VALUE_AND_NAME)
    )
    if panel.bad_from is not None:
        # A counter by reason is not there before its first event.
        built.color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS)).no_value("none")
    return built


def _common(built: Built, panel: Panel) -> Built:
    """What both kinds of panels have."""
    built.title(panel.title).description(panel.says).datasource(_SOURCE).unit(panel.unit)
    built.span(panel.width).height(_HEIGHTS[panel.look])
    for number, query in enumerate(panel.queries):
        built.with_target(_target(query, chr(ord("A") + number)))
    if panel.bad_from is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=panel.bad_from, color="red")]
        built.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return built


def _target(query: Query, name: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(name).datasource(_SOURCE)
