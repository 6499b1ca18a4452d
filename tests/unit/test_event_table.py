"""The table of events is what the code says: no event is missing from it, and none is in it that nobody says."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tlspool_common.event_table import AFTER, BEFORE, PROVOKED, TABLE, Recorded
from tlspool_common.metric_table import TABLE as METRICS

ROOT = Path(__file__).resolve().parents[2]
LETTERS = {
    "tlspool_broker": "B",
    "tlspool_worker": "W",
    "tlspool_keyd": "K",
    "tlspool_online": "O",
    "tlspool_radius": "R",
}
SHARED = {
    "tlspool_common/reloading.py": "BWK",
    "tlspool_common/line.py": "B",
    "tlspool_common/helping.py": "OR",
    "tlspool_common/sandbox.py": "BWKOR",
}
NAME = re.compile(r"[a-z_]+\.[a-z_]+")
NO_EVENTS = ("event_table.py", "metric_table.py")


def sources():
    for package in (*LETTERS, "tlspool_common"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name not in NO_EVENTS:
                yield path, ast.parse(path.read_text())


def said(tree):
    """Yield what stands where the name of an event does: behind the level of a note, and first in a line of the log."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = {"note": 1, "_note": 1, "Note": 1, "info": 0, "warning": 0, "error": 0, "debug": 0}.get(name)
        if place is not None and len(node.args) > place:
            yield from strings(node.args[place])
        if name in ("append", "attest") and node.args:
            yield from (one for one in strings(node.args[0]) if NAME.fullmatch(one))


def strings(node):
    return [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def test_each_event_of_the_code_has_its_row():
    unknown = {}
    for path, tree in sources():
        for name in said(tree):
            if NAME.fullmatch(name) and name not in TABLE:
                unknown[name] = path.name
    assert not unknown, "add rows to event_table.py"


def test_each_row_is_an_event_of_the_code():
    found = defaultdict(set)
    for path, tree in sources():
        where = str(path.relative_to(ROOT))
        for name in strings(tree):
            found[name].add(SHARED.get(where) or LETTERS.get(where.split("/")[0], "BWK"))
    for name, event in TABLE.items():
        letters = {letter for letters in found.get(name, ()) for letter in letters}
        assert set(event.daemons) <= letters, name


@pytest.mark.parametrize("name", TABLE)
def test_a_row_says_what_the_event_is(name):
    assert TABLE[name].doc
    assert not TABLE[name].doc.endswith(".")
    assert name == "internal" or NAME.fullmatch(name)


def test_what_is_recorded():
    assert {"session.start", "sign.done"} == BEFORE
    assert BEFORE.isdisjoint(AFTER)
    for name in (
        "session.end",
        "session.refused",
        "session.failed",
        "session.kill",
        "sign.refused",
        "database.changed",
    ):
        assert TABLE[name].recorded is Recorded.AFTER
    for name in ("reload.done", "broker.ready", "broker.stopped", "keyd.ready", "keyd.stopped", "token.opened"):
        assert TABLE[name].recorded is Recorded.AFTER
    assert BEFORE.isdisjoint(PROVOKED)


def test_metrics_count_events_of_their_daemons():
    for metric in METRICS:
        for source in metric.sources:
            assert set(TABLE[source.event].daemons) & set(metric.daemons), (metric.name, source.event)
