"""OpenMetrics text (version 1.0): written from samples, and the text of another daemon read again.

Only names of metric_table.py are written and read, and each family stands in one place, so that the numbers of
several daemons make one text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

from tlspool_common.metric_table import BY_NAME, TABLE, Kind
from tlspool_common.record import record

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

TEXT_B = 512 * 1024
"""Of one daemon: some 400 lines of 80 bytes, and ten times that if every label had all its values."""

_SAMPLE = re.compile(
    r'([a-z][a-z0-9_]{0,80})(?:\{((?:[a-z_]{1,32}="(?:[^"\\\n]|\\["\\n]){0,300}",?){0,8})\})? ([-+0-9.eEInf]{1,32})'
)
_LABEL = re.compile(r'([a-z_]{1,32})="((?:[^"\\\n]|\\["\\n]){0,300})"(?:,|$)')
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


_EXACT = 2.0**53
"""Beyond it a number is written with its exponent: in full it may have 300 digits."""


class BadText(Exception):
    """A text is no OpenMetrics text of a daemon of ours."""


@record
class Sample:
    """One line."""

    name: str
    labels: Mapping[str, str]
    value: float


_SUFFIXES = {
    Kind.COUNTER: ("_total",),
    Kind.GAUGE: ("",),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
    Kind.INFO: ("_info",),
}
"""What is behind a family's name in those of its samples."""

_SERIES = {
    metric.name: {
        metric.name + suffix: frozenset((*metric.labels, *(("le",) if suffix == "_bucket" else ())))
        for suffix in _SUFFIXES[metric.kind]
    }
    for metric in TABLE
}
"""The labels of samples, by family and by name."""

_PLACES = {metric.name: place for place, metric in enumerate(TABLE)}

Samples = dict[str, list[Sample]]
"""Samples by name of the metric."""


def write(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return a text, with the families in the order of the table."""
    lines: list[str] = []
    for name in sorted(_PLACES.keys() & samples.keys(), key=_PLACES.__getitem__):
        lines += _about(name)
        lines += map(_line, samples[name])
    return "\n".join([*lines, "# EOF", ""])


@cache
def _about(name: str) -> tuple[str, ...]:
    """Return what is said of a family before its samples."""
    metric = BY_NAME[name]
    unit = (f"# UNIT {name} {metric.unit}",) if metric.unit else ()
    return (f"# TYPE {name} {metric.kind.value}", *unit, f"# HELP {name} {_escaped(plain(metric.doc))}")


def plain(text: str) -> str:
    """Return a text of the table without the marks that the page has."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
    shown = f"{{{labels}}}" if labels else ""
    return f"{sample.name}{shown} {_number(sample.value)}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if abs(value) < _EXACT and value == int(value) else repr(float(value))


def read_untrusted(text: str) -> Samples:
    """Read the text of a daemon: samples by name of the metric.

    Raises:
        BadText: it is none, or speaks of what the table does not have.
    """
    if len(text) > TEXT_B:
        raise BadText(f"it has more than {TEXT_B} bytes")
    lines = text.split("\n")
    if lines[-2:] != ["# EOF", ""]:
        raise BadText("it has no end")
    found: Samples = {}
    family = ""
    for line in lines[:-2]:
        if line.startswith("# TYPE "):
            family, _, kind = line.removeprefix("# TYPE ").partition(" ")
            if family not in BY_NAME or family in found or kind != BY_NAME[family].kind.value:
                raise BadText("a family is unknown, of another type, or there twice")
            found[family] = []
        elif not line.startswith(("# HELP ", "# UNIT ")):
            sample = _sample_untrusted(line)
            if not family:
                raise BadText("a sample is in no family")
            _check(sample, family)
            found[family].append(sample)
    return found


def _check(sample: Sample, family: str) -> None:
    """See that a sample is one of its family: scrapers refuse the whole text, ours with it, for one that is not."""
    labels = _SERIES[family].get(sample.name)
    if labels is None:
        raise BadText("a sample is not of its family")
    if sample.labels.keys() != labels:
        raise BadText("a sample has not the labels of its family")


def _sample_untrusted(line: str) -> Sample:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise BadText("a line is no sample")
    name, inner, number = match.groups()
    pairs = _LABEL.findall(inner or "")
    labels = {label: _unescaped(value) if "\\" in value else value for label, value in pairs}
    if len(labels) < len(pairs) or ",".join(f'{label}="{value}"' for label, value in pairs) != (inner or ""):
        raise BadText("a sample's labels are not apart, or one is there twice")
    try:
        return Sample(name, labels, float(number))
    except ValueError:
        raise BadText("a sample has no number") from None


def _unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda one: _UNESCAPED[one[0]], text)


def merge(parts: Sequence[Samples]) -> Samples:
    """Return the samples of several daemons as those of one text; of two with the same labels the first counts."""
    found: Samples = {}
    seen = set()
    for part in parts:
        for family, samples in part.items():
            into = found.setdefault(family, [])
            for sample in samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                if key not in seen:
                    seen.add(key)
                    into.append(sample)
    return found
