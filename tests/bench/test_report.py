from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from bench.compare import CASES, Comparison, Measurement
from bench.report import number, page_of_comparison, page_of_result
from tests.bench.results import result, total

VOID = {"meta"}


class Balance(HTMLParser):
    """Notes what is open, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.drawn = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.drawn += tag == "svg"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_self_contained(page: str) -> None:
    """See that a page asks nobody for anything."""
    assert not re.search(r"(src|href|url|@import)\s*[=(]", page)
    assert "<script" not in page


def test_page_of_a_run_shows_figures_charts_and_load() -> None:
    page = page_of_result(result())
    seen = Balance(page)
    assert seen.open == []
    assert seen.drawn == 4  # latency, rate, cores, memory
    for text in ("server CPU per heartbeat", "500", "answer, p99", "duration_s", "2 core(s)"):
        assert text in seen.text
    assert_self_contained(page)


def test_page_of_a_run_without_server_and_samples_has_no_empty_chart() -> None:
    assert Balance(page_of_result(result(server=None, samples=()))).drawn == 1


def test_doubts_are_on_the_page_and_escaped() -> None:
    page = page_of_result(result(url="ws://<host>/", total=total(units=10)))
    assert "Only 1% of the wanted rate" in Balance(page).text
    assert "<host>" not in page


def test_page_of_a_comparison_has_bars_for_each_figure_and_says_what_failed() -> None:
    case = CASES["heartbeat-100"]
    comparison = Comparison(
        began_at="now",
        machine="2 core(s)",
        baseline="floor",
        rounds=1,
        cases=(case, CASES["idle-10000"]),
        measurements=(
            Measurement(case.name, "floor", 0, {"cpu_us": 5.0}),
            Measurement(case.name, "ours", 0, {"cpu_us": 6.0}, ("a doubt",)),
            Measurement(case.name, "other", 0, {}, failure="it does not listen"),
        ),
    )
    page = page_of_comparison(comparison)
    seen = Balance(page)
    assert (seen.open, seen.drawn) == ([], 1)
    for text in ("6 (1.20 x floor)", "ours, round 1: a doubt", "other, round 1: it does not listen"):
        assert text in " ".join(seen.text.split())
    assert_self_contained(page)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3.0, "3"), (0.12345, "0.123"), (12.345, "12.3"), (12345.6, "12,346")]
)
def test_figures_are_written_for_people(value: float, text: str) -> None:
    assert number(value) == text
