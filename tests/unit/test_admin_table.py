"""What people see: nothing from outside controls their terminal, and colours are for terminals only."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_admin import table
from tlspool_admin.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@given(st.text())
def test_nothing_but_printable_characters_pass(text):
    for value in (text, [text], {"a": text}, {text: [text]}):
        assert table.clean(value).isprintable()
    shown = table.table([{"a": text, text: "b"}])
    assert all(line.isprintable() for line in shown.split("\n"))
    assert len(shown.split("\n")) == 2


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(monkeypatch, environment, coloured):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b" in table.paint("x", "red", Terminal())) is coloured
    assert table.paint("x", "red", io.StringIO()) == "x"


def test_cells_are_cut_on_a_terminal_only(monkeypatch):
    rows = [{"a": "x" * 200}]
    assert "x" * 200 in table.table(rows)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert "x" * 100 not in table.table(rows)
    assert "..." in table.table(rows)


def test_columns_that_are_named_come_first_and_all_others_follow():
    shown = table.table([{"a": 1}, {"b": None, "c": True}, {"c": ["x", "y"]}], first=("c",))
    assert [line.split() for line in shown.split("\n")] == [["c", "a", "b"], ["1"], ["yes"], ["x,", "y"]]


def test_an_answer_of_any_shape():
    shown = table.show({"ok": True, "n": 1.5, "one": {"a": None}, "none": {}, "many": [{"b": 1}], "list": ["x"]})
    assert shown == "n: 1.5\none:\n  a: \nmany:\n  b\n  1\nlist: x"


def test_progress_is_for_terminals(monkeypatch, capsys):
    with Progress("reading") as progress:
        progress.at(1, 2)
        progress.say("x")
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("reading") as progress:
        progress.at(1, 2)
    assert "reading: 1 of 2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
