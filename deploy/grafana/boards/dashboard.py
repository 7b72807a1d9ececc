"""Builds the dashboard with the Grafana Foundation SDK.

What the SDK leaves out is set here: the ids of panels and rows, and each query's `refId`, which it
leaves empty and by which Grafana tells a panel's queries apart.
"""

import json
from collections.abc import Iterable
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from boards.panels import CLUSTER, SCOPE, Marker, Panel, Query, scoped
from boards.questions import MARKERS, QUESTIONS

UID: Final = "teardown-lab"
TITLE: Final = "Teardown Lab"

METRICS: Final = DataSourceRef("prometheus", "${datasource}")
GRAFANA: Final = DataSourceRef("grafana", "-- Grafana --")

COUNTING_INTERVAL: Final = "20s"
"""Bars count events: with steps of four scrapes an event is in one bar, at a border in two."""

_HEIGHTS: Final = {"stat": 4, "lines": 8, "bars": 8, "heatmap": 8, "table": 8}

Built = stat.Panel | timeseries.Panel | heatmap.Panel | table.Panel


def text() -> str:
    """Return the dashboard as JSON."""
    return json.dumps(_dashboard().build(), cls=JSONEncoder, indent=2) + "\n"


def _dashboard() -> dashboard.Dashboard:
    board = (
        dashboard.Dashboard(TITLE)
        .uid(UID)
        .description("VMs torn down over RabbitMQ: six questions, top to bottom.")
        .tags(["teardown", "rabbitmq"])
        .time("now-15m", "now")
        .refresh("5s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable(CLUSTER)
            .label("RabbitMQ cluster")
            .datasource(METRICS)
            .query(f"label_values(rabbitmq_identity_info, {CLUSTER})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )
    for label in SCOPE:
        board = board.with_variable(_choice_of(label))
    for marker in MARKERS:
        board = board.annotation(_annotation(marker))
    number = 0
    for question in QUESTIONS:
        number += 1
        board = board.with_row(dashboard.Row(question.title).id(number))
        for panel in question.panels:
            number += 1
            board = board.with_panel(_panel(panel, number))
    return board


def _choice_of(label: str) -> dashboard.QueryVariable:
    """Return the variable of one label; all is also what has no such label at all."""
    return (
        dashboard.QueryVariable(label)
        .datasource(METRICS)
        .query(f"label_values(teardown_instance_info, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _annotation(marker: Marker) -> dashboard.AnnotationQuery:
    annotation = dashboard.AnnotationQuery().name(marker.name).icon_color(marker.colour)
    if marker.expr:
        return annotation.datasource(METRICS).expr(scoped(marker.expr))
    tags = dashboard.AnnotationTarget().type("tags").tags(list(marker.tags))
    return annotation.datasource(GRAFANA).target(tags.limit(100).match_any(False))


def _panel(panel: Panel, number: int) -> Built:
    match panel.kind:
        case "stat":
            built: Built = _stat(panel)
        case "heatmap":
            built = _heatmap(panel)
        case "table":
            built = _table()
        case "lines" | "bars":
            built = _series(panel)
    built = built.id(number).title(panel.title).description(panel.says).datasource(METRICS)
    built = built.span(panel.width).height(_HEIGHTS[panel.kind])
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        built = built.with_target(_target(query, panel.kind, letter))
    return built


def _target(query: Query, kind: str, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(scoped(query.expr)).ref_id(letter).datasource(METRICS)
    if query.legend:
        target = target.legend_format(query.legend)
    match kind:
        case "stat":
            return target.instant()
        case "table":
            return target.instant().format(PromQueryFormat.TABLE)
        case "heatmap":
            return target.range().format(PromQueryFormat.HEATMAP)
        case _:
            return target.range()


def _stat(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .unit(panel.unit)
        .thresholds(_thresholds(panel.levels))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND if panel.levels else BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if panel.texts:
        texts = {value: ValueMappingResult(text=text) for value, text in panel.texts}
        built = built.mappings([ValueMap(texts)])
    return built


def _series(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .unit(panel.unit)
        .min(0)
        .legend(common.VizLegendOptions().show_legend(True).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.levels:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE)
        built = built.thresholds(_thresholds(panel.levels)).thresholds_style(style)
    if panel.kind == "lines":
        return built.draw_style(GraphDrawStyle.LINE).fill_opacity(10)
    return (
        built.draw_style(GraphDrawStyle.BARS)
        .fill_opacity(80)
        .interval(COUNTING_INTERVAL)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    )


def _heatmap(panel: Panel) -> heatmap.Panel:
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges")
    return (
        heatmap.Panel()
        .calculate(False)
        .interval(COUNTING_INTERVAL)
        .color(colours.steps(64))
        .y_axis(heatmap.YAxisConfig().unit(panel.unit))
        .cell_gap(1)
        .show_legend()
        .show_y_histogram()
    )


def _table() -> table.Panel:
    hide_time = DataTransformerConfig("organize", options={"excludeByName": {"Time": True}})
    return table.Panel().show_header(True).with_transformation(hide_time)


def _thresholds(levels: Iterable[tuple[float, str]]) -> dashboard.ThresholdsConfig:
    """Return colours from a value on; Grafana wants the first to begin at minus infinity."""
    steps = [
        Threshold(None if position == 0 else value, colour)
        for position, (value, colour) in enumerate(levels)
    ]
    return dashboard.ThresholdsConfig().steps(steps or [Threshold(None, "blue")])
