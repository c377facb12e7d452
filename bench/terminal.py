"""Progress and tables in the terminal."""

from __future__ import annotations

from itertools import groupby
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from bench.compare import Comparison
from bench.figures import figures_of, verdicts_of
from bench.report import number
from bench.result import Result, Sample
from bench.run import Watch

PLAIN_WIDTH: Final = 120


class Terminal:
    """One progress bar for whatever runs at the moment; gone when the context ends."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            transient=True,
            # Shown when there is news, not by a thread, which would outlive the context by a moment.
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=1.0, state="")

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, title: str) -> Watch:
        """Return what shows the progress of one run."""

        def show(phase: str, done: float, sample: Sample) -> None:
            state = f"{phase}: {sample.signed_in} signed in"
            if phase == "measuring":
                state += f", {number(round(sample.rate))}/s"
            self._progress.update(self._task, description=title, completed=done, state=state, refresh=True)

        return show


def wide() -> Console:
    """Return a console for results: as wide as the terminal, or as a table needs in a file."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def show_result(console: Console, result: Result) -> None:
    """Print the figures of one run, and the doubts."""
    table = Table(title=Text(f"{result.load.workload}: {result.url}"), title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for figure in figures_of(result):
        table.add_row(figure.label, number(figure.value), figure.unit)
    console.print(table)
    for verdict in verdicts_of(result):
        console.print(f"! {verdict}", markup=False, soft_wrap=True)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print one table of medians, and what failed."""
    table = Table(title=f"Medians of interleaved rounds; {comparison.machine}", title_justify="left")
    for heading in (
        "case",
        "figure",
        "server",
        "rounds",
        "median",
        f"x {escape(comparison.baseline)}",
        "ours / it",
    ):
        table.add_column(heading, justify="left" if heading in ("case", "figure", "server") else "right")
    for _, rows in groupby(comparison.rows(), lambda row: (row.case, row.key)):
        for first, row in enumerate(rows):
            names = ("", "") if first else (row.case, row.heading)
            ratios = ("" if ratio is None else f"{ratio:.2f}" for ratio in (row.to_baseline, row.to_ours))
            table.add_row(*names, Text(row.server), str(row.rounds), number(row.value), *ratios)
        table.add_section()
    console.print(table)
    for measurement in comparison.measurements:
        for text in (measurement.failure,) if measurement.failure else measurement.verdicts:
            place = f"{measurement.case}, {measurement.server}, round {measurement.round + 1}"
            console.print(f"! {place}: {text}", markup=False, soft_wrap=True)
