"""Numbers for Prometheus, read at scrape from the `statistics()` of long-lived objects.

A counter of ours is a plain int where it is counted (measured: 0.04 us against 0.7-2.8 us of a library
call); here they get their names.  `statistics()` returns a dataclass or a mapping; a field becomes

    int, float, bool      roomcast_<part>_<field>_total, or roomcast_<part>_<field> if it is a gauge
    mapping               the same with a label `reason` for each key; where the keys are tuples, the field
                          names their labels: `field(metadata={"labels": ("method", "status")})`
    dataclass             its fields, with the field's name before theirs
    None, text            nothing

A field ending in `_s` is shown as `_seconds`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

import trio
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

NAMESPACE: Final = "roomcast"
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LAG_INTERVAL_S: Final = 0.5
_LAG_WINDOW: Final = 120  # measurements: one minute
_REASON: Final = ("reason",)
_LABELS: Final = "labels"


@dataclass(frozen=True, slots=True, eq=False)
class _Registered:
    part: str
    statistics: Callable[[], object]
    gauges: Collection[str]
    labels: Mapping[str, str]


class Metrics:
    """All numbers of a process.  Owned by the composition root; what registers itself must outlive its
    registration, or end it."""

    def __init__(self) -> None:
        self._registered: dict[_Registered, None] = {}
        self._errors: dict[str, int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_StatisticsCollector(self))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_TrioCollector())

    def register(
        self,
        part: str,
        statistics: Callable[[], object],
        *,
        gauges: Collection[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Callable[[], None]:
        """Show what `statistics` returns, from the next scrape on.

        Args:
            part: the middle of the names, such as `rooms`.
            statistics: called synchronously at each scrape.
            gauges: fields that go up and down; all others only grow.
            labels: tell several objects of the same part apart; the same label names for all of them.

        Returns:
            A function that ends the registration; calling it twice changes nothing.
        """
        registered = _Registered(part, statistics, frozenset(gauges), dict(sorted((labels or {}).items())))
        self._registered[registered] = None

        def unregister() -> None:
            self._registered.pop(registered, None)

        return unregister

    def render(self) -> bytes:
        """Return the text of a scrape."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read all statistics now.  One that raises is counted and does not spoil the scrape."""
        families: dict[str, Metric] = {}
        for registered in list(self._registered):
            try:
                samples = list(_samples(registered.statistics()))
            except Exception:
                self._errors[registered.part] = self._errors.get(registered.part, 0) + 1
                continue
            for name, labels, value in samples:
                _add(families, registered, name, labels, value)
        errors = CounterMetricFamily(
            f"{NAMESPACE}_scrape_errors", "Parts whose statistics could not be read.", labels=("part",)
        )
        for part, count in self._errors.items():
            errors.add_metric((part,), count)
        yield from families.values()
        yield errors


class _StatisticsCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()

    def describe(self) -> Iterator[Metric]:
        """Return nothing: which families there are shows at the scrape."""
        return iter(())


class _TrioCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        if trio.lowlevel.in_trio_run():
            tasks = trio.lowlevel.current_statistics().tasks_living
            yield GaugeMetricFamily("trio_tasks", "Tasks that live in the loop.", value=tasks)

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _samples(statistics: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yield (field, labels, value)."""
    for field_name, value, label_names in _fields(statistics):
        name = f"{prefix}{field_name}"
        if isinstance(value, int | float):
            yield name, {}, float(value)
        elif isinstance(value, Mapping):
            for key, count in value.items():
                parts = key if isinstance(key, tuple) else (key,)
                yield name, dict(zip(label_names, map(str, parts), strict=True)), float(count)
        elif is_dataclass(value):
            yield from _samples(value, f"{name}_")


def _fields(statistics: Any) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Yield (field, value, names of the labels for the keys of a mapping)."""
    if is_dataclass(statistics) and not isinstance(statistics, type):
        for item in fields(statistics):
            yield item.name, getattr(statistics, item.name), item.metadata.get(_LABELS, _REASON)
    else:
        for name, value in statistics.items():
            yield name, value, _REASON


def _add(
    families: dict[str, Metric], registered: _Registered, name: str, labels: Mapping[str, str], value: float
) -> None:
    shown = f"{name.removesuffix('_s')}_seconds" if name.endswith("_s") else name
    full = f"{NAMESPACE}_{registered.part}_{shown}"
    labels = {**registered.labels, **labels}
    family = families.get(full)
    if family is None:
        kind = GaugeMetricFamily if name in registered.gauges else CounterMetricFamily
        family = families[full] = kind(full, f"{registered.part}: {name}", labels=tuple(labels))
    assert isinstance(family, GaugeMetricFamily | CounterMetricFamily)  # noqa: S101  the two made above
    family.add_metric(tuple(labels.values()), value)


@dataclass(frozen=True, slots=True)
class LoopLagStatistics:
    """How late the loop ran a task that was due: the last time, and at worst in the last minute."""

    last_s: float
    worst_s: float


class LoopLag:
    """What `watch_loop_lag` has seen.  Owned by the composition root."""

    GAUGES: Final = ("last_s", "worst_s")

    def __init__(self) -> None:
        self._seen: deque[float] = deque([0.0], maxlen=_LAG_WINDOW)

    def note(self, lag_s: float) -> None:
        """Take one measurement."""
        self._seen.append(max(0.0, lag_s))

    def statistics(self) -> LoopLagStatistics:
        """Return what was measured last and at worst."""
        return LoopLagStatistics(self._seen[-1], max(self._seen))


async def watch_loop_lag(
    lag: LoopLag,
    interval_s: float = LAG_INTERVAL_S,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Measure for ever how late a sleeping task is woken; ends when cancelled."""
    task_status.started()
    while True:
        due = trio.current_time() + interval_s
        await trio.sleep_until(due)
        lag.note(trio.current_time() - due)
