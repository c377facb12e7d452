"""One HTML page for a run or a comparison: figures, doubts, charts; it loads nothing.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from html import escape
from typing import Final

from bench.charts import Point, bars, linear, lines, percentiles
from bench.compare import Comparison, Row
from bench.figures import SPANS, figures_of, verdicts_of
from bench.histogram import merged
from bench.result import Result

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } svg { max-width: 100%; height: auto }
svg text { font-size: 11px; fill: #374151 } .grid { stroke: #e5e7eb }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.doubt { background: #fef3c7; padding: .4rem .8rem; border-left: 4px solid #d97706; margin: .3rem 0 }
.small { color: #6b7280 }
"""


def page_of_result(result: Result) -> str:
    """Return the page of one run."""
    load = result.load
    parts = [
        *_doubts(verdicts_of(result)),
        "<h2>Figures</h2>",
        _table(("", "", ""), ((f.label, number(f.value), f.unit) for f in figures_of(result))),
        *_latency_chart(result),
        *_time_charts(result),
        "<h2>Load</h2>",
        _table(("", ""), ((field.name, str(getattr(load, field.name))) for field in fields(load))),
    ]
    subtitle = (
        f"{result.url}, client version {result.version}, {result.processes} generator process(es), "
        f"{result.began_at}, {result.machine}"
    )
    return _page(f"{load.workload}", subtitle, parts)


def page_of_comparison(comparison: Comparison) -> str:
    """Return the page of a comparison."""
    rows = list(comparison.rows())
    parts: list[str] = []
    for case in comparison.cases:
        for key, heading in case.figures.items():
            shown = [row for row in rows if (row.case, row.key) == (case.name, key)]
            if shown:
                values = {row.server: row.value for row in shown}
                parts.append(f"<h2>{escape(case.name)}: {escape(heading)}</h2>")
                parts.append(bars(values, {row.server: _bar_text(row, comparison.baseline) for row in shown}))
    doubts = (
        f"{m.case}, {m.server}, round {m.round + 1}: {text}"
        for m in comparison.measurements
        for text in ((m.failure,) if m.failure else m.verdicts)
    )
    parts += ["<h2>Said about single runs</h2>", *_doubts(doubts)]
    subtitle = (
        f"Medians of {comparison.rounds} interleaved round(s); ratios are of the same round. "
        f"{comparison.began_at}, {comparison.machine}"
    )
    return _page("Comparison", subtitle, parts)


def number(value: float) -> str:
    """Return a figure for people: whole from 1000 on, with three digits below."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _bar_text(row: Row, baseline: str) -> str:
    ratio = "" if row.to_baseline is None else f"  ({row.to_baseline:.2f} x {baseline})"
    return f"{number(row.value)}{ratio}"


def _latency_chart(result: Result) -> Iterator[str]:
    series: dict[str, list[Point]] = {}
    for name in SPANS:
        recorded = result.total.spans.get(name)
        if recorded is not None and recorded.counts:
            curve = merged([recorded]).curve()
            series[SPANS[name]] = [(0.0, curve[0][1] / 1e6), *((percent, ns / 1e6) for percent, ns in curve)]
    if series:
        highest = max(points[-1][1] for points in series.values())
        yield "<h2>Latency</h2>"
        yield lines(series, percentiles("percentile"), linear("ms", highest))


def _time_charts(result: Result) -> Iterator[str]:
    samples = result.samples
    if not samples:
        return
    seconds = linear("seconds since the load began", samples[-1].at_s)
    charts = {"Units per second": [(s.at_s, s.rate) for s in samples]}
    if result.server is not None:
        charts["Server: cores"] = [(s.at_s, s.cores) for s in samples]
        charts["Server: memory, MB"] = [(s.at_s, s.rss_bytes / 2**20) for s in samples]
    for title, points in charts.items():
        yield f"<h2>{title}</h2>"
        yield lines({title: points}, seconds, linear("", max(y for _, y in points)))


def _doubts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield f'<p class="doubt">{escape(text)}</p>'


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(text: str) -> str:
    is_number = text.replace(",", "").replace(".", "").isdigit()
    return f'<td class="number">{escape(text)}</td>' if is_number else f"<td>{escape(text)}</td>"


def _page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="small">{escape(subtitle)}</p>{"".join(parts)}</body></html>'
    )
