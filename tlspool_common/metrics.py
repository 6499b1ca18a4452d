"""Metrics of one daemon: it reads the facts as they are said, counts what metric_table.py tells it to, and writes text.

Memory is bounded: there are as many numbers as labels have values.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from tlspool_common import metric_table, openmetrics
from tlspool_common.log import Value
from tlspool_common.metric_table import BY_NAME, DOMAINS, EXITS, FREE, Kind, Metric, Source
from tlspool_common.openmetrics import Sample, Samples

Reading = tuple[str, Mapping[str, str], float]
"""Name of a metric, labels (without ``daemon``), and the number that it has now."""

_FREE_VALUES = 64
"""Different values of a label that is the operator's: lines of a configuration; more are ``other``."""

_ZEROS = 24
"""Series of a counter that are shown before they are counted, if they are so few: a rate needs the 0 before the 1."""

_CASELESS = {name: {value.lower(): value for value in values} for name, values in DOMAINS.items()}
_PAGE_B = os.sysconf("SC_PAGE_SIZE")


def version() -> str:
    """Return which version of the pool this is; '' when it runs from a tree that was never installed."""
    try:
        return importlib.metadata.version("tlspool")
    except importlib.metadata.PackageNotFoundError:
        return ""


class Metrics:
    """The numbers of a daemon."""

    def __init__(self, letter: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.daemon = metric_table.DAEMONS[letter]
        self._version = version()
        self._clock_s = clock_s
        self._started_s = clock_s()
        self._mine = [metric for metric in metric_table.TABLE if letter in metric.daemons]
        self._rules: dict[str, list[tuple[Metric, Source]]] = {}
        self._counts: dict[str, dict[tuple[str, ...], float]] = {}
        self._buckets: dict[str, dict[tuple[str, ...], list[int]]] = {}
        self._free: dict[str, set[str]] = {name: set() for name in FREE}
        for metric in self._mine:
            for source in metric.sources:
                self._rules.setdefault(source.event, []).append((metric, source))
            if metric.sources:
                self._counts[metric.name] = dict.fromkeys(self._zeros(metric), 0.0)
            if metric.kind is Kind.HISTOGRAM:
                empty = {labels: [0] * (len(metric.buckets) + 1) for labels in self._counts[metric.name]}
                self._buckets[metric.name] = empty

    def _zeros(self, metric: Metric) -> Iterable[tuple[str, ...]]:
        values = [(self.daemon,) if name == "daemon" else DOMAINS.get(name, ()) for name in metric.labels]
        few = list(product(*values)) if all(len(one) <= _ZEROS for one in values) else []
        return few if len(few) <= _ZEROS else []

    # --- counting -------------------------------------------------------------------------------------

    def read(self, event: str, fields: Mapping[str, Value]) -> None:
        """Hear a fact."""
        for metric, source in self._rules.get(event, ()):
            amount = fields.get(source.field) if source.field else 1
            if not isinstance(amount, (int, float)):
                continue
            labels = tuple(self._label(name, source, fields) for name in metric.labels)
            if metric.kind is Kind.HISTOGRAM:
                self._observe(metric, labels, amount / 1000 if source.field.endswith("ms") else amount)
            else:
                counts = self._counts[metric.name]
                counts[labels] = counts.get(labels, 0.0) + max(0, amount)

    def _observe(self, metric: Metric, labels: tuple[str, ...], amount: float) -> None:
        buckets = self._buckets[metric.name].setdefault(labels, [0] * (len(metric.buckets) + 1))
        buckets[bisect_left(metric.buckets, amount)] += 1
        counts = self._counts[metric.name]
        counts[labels] = counts.get(labels, 0.0) + max(0.0, amount)

    def _label(self, name: str, source: Source, fields: Mapping[str, Value]) -> str:
        if name == "daemon":
            return self.daemon
        said = source.labels[name]
        value = said[1:] if said.startswith("=") else fields.get(said)
        return self._word(name, value)

    def _word(self, name: str, value: Value) -> str:
        """Return a value that a label may have."""
        if name in FREE:
            text = str(value) if value else "none"
            known = self._free[name]
            if text not in known and len(known) >= _FREE_VALUES:
                return "other"
            known.add(text)
            return text
        if name == "meaning" and isinstance(value, int):
            value = "signal" if value > 128 else EXITS.get(value, "other")
        return _CASELESS[name].get(str(value).lower() if value else "none", "other")

    # --- telling --------------------------------------------------------------------------------------

    def text(self, readings: Iterable[Reading] = ()) -> str:
        """Return all of it; ``readings`` are the numbers that are read at this moment."""
        return openmetrics.write(self.samples(readings))

    def samples(self, readings: Iterable[Reading] = ()) -> Samples:
        """Return all samples, by name of the metric."""
        found: Samples = {metric.name: [] for metric in self._mine}
        for name, labels, value in [*self._process(), *readings]:
            metric = BY_NAME[name]
            words = {one: self.daemon if one == "daemon" else self._word(one, labels[one]) for one in metric.labels}
            found[name].append(Sample(_suffixed(metric), words, value))
        for metric in self._mine:
            for values, total in self._counts.get(metric.name, {}).items():
                words = dict(zip(metric.labels, values, strict=True))
                if metric.kind is Kind.HISTOGRAM:
                    found[metric.name] += _histogram(metric, words, self._buckets[metric.name][values], total)
                else:
                    found[metric.name].append(Sample(_suffixed(metric), words, total))
        return found

    def _process(self) -> list[Reading]:
        """Return what every daemon says of its own process (proc_pid_statm(5), getrusage(2))."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        readings: list[Reading] = [
            ("tlspool_up", {}, 1),
            ("tlspool_build", {"version_of_pool": self._version}, 1),
            ("tlspool_uptime_seconds", {}, round(self._clock_s() - self._started_s, 3)),
            ("tlspool_cpu_seconds", {}, round(usage.ru_utime + usage.ru_stime, 3)),
            ("tlspool_descriptors_limit", {}, limit),
        ]
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            readings.append(("tlspool_memory_bytes", {}, pages * _PAGE_B))
            readings.append(("tlspool_descriptors", {}, len(os.listdir("/proc/self/fd")) - 1))  # noqa: PTH208 - no objects
        except (OSError, IndexError, ValueError):
            readings.append(("tlspool_memory_bytes", {}, usage.ru_maxrss * 1024))  # /proc is shut: the most it ever had
            readings.append(("tlspool_descriptors", {}, -1))
        return readings


def by_state(name: str, label: str, numbers: Mapping[str, float]) -> list[Reading]:
    """Return a reading for each value that a label may have, 0 where there is none."""
    return [(name, {label: value}, numbers.get(value, 0)) for value in DOMAINS[label]]


def _suffixed(metric: Metric) -> str:
    suffix = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(metric.kind, "")
    return metric.name + suffix


def _histogram(metric: Metric, words: dict[str, str], buckets: Sequence[int], total: float) -> list[Sample]:
    samples, count = [], 0
    for bound, number in zip((*metric.buckets, None), buckets, strict=True):
        count += number
        edge = "+Inf" if bound is None else repr(bound)
        samples.append(Sample(f"{metric.name}_bucket", {**words, "le": edge}, count))
    samples.append(Sample(f"{metric.name}_count", words, count))
    samples.append(Sample(f"{metric.name}_sum", words, round(total, 6)))
    return samples
