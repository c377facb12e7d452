from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, strategies as st

from bench.charts import HEIGHT, WIDTH, bars, linear, lines, number_text, percentiles, round_step


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)  # noqa: S314  we have made it ourselves


SHAPES = {"polyline", "rect", "text", "line"}


def test_line_chart_has_a_line_for_each_series_within_its_frame() -> None:
    chart = parsed(lines({"a & b": [(0, 0), (10, 5)], "c": [(0, 10)]}, linear("x", 10), linear("y", 10)))
    assert {element.tag for element in chart} == SHAPES
    drawn = [element.attrib["points"] for element in chart if element.tag == "polyline"]
    assert len(drawn) == 2
    for x, y in (point.split(",") for points in drawn for point in points.split()):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT
    assert "a & b" in [element.text for element in chart]


def test_bars_are_as_long_as_their_values() -> None:
    chart = parsed(bars({"one": 1.0, "<four>": 4.0}, {"one": "1", "<four>": "4"}))
    widths = [float(element.attrib["width"]) for element in chart if element.tag == "rect"]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.01)
    assert parsed(bars({"zero": 0.0}, {"zero": ""})) is not None


@given(st.floats(1e-6, 1e12))
def test_axis_holds_its_highest_value_with_few_round_ticks(highest: float) -> None:
    axis = linear("", highest)
    assert axis.place(highest) <= 1.001
    assert 2 <= len(axis.ticks) <= 7
    assert axis.ticks[0][0] == 0


def test_axis_of_nothing_is_still_one() -> None:
    assert linear("", 0).ticks[-1][0] >= 1


def test_percentiles_are_spread_by_nines() -> None:
    axis = percentiles("")
    assert [round(axis.place(percent), 3) for percent in (0, 90, 99, 99.9, 100)] == [0, 0.2, 0.4, 0.6, 1]


@pytest.mark.parametrize(("step", "rounded"), [(0.3, 0.5), (1, 1), (1.1, 2), (7, 10), (230, 500)])
def test_steps_are_round(step: float, rounded: float) -> None:
    assert round_step(step) == pytest.approx(rounded)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (1500, "1.5k"), (2e6, "2M"), (3e9, "3G")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text
