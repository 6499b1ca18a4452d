"""The live view without a terminal and without a pool: keys in, lines and wishes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_admin.top import sample as sampling
from tlspool_admin.top.board import Board, Kill, Mode, Quit
from tlspool_admin.top.sample import Sample
from tlspool_admin.top.terminal import keys_untrusted
from tlspool_admin.verdict import Level

SESSIONS = [
    {"session": 1, "age_s": 5.0, "caller": "postfix.service[1]", "state": "relaying", "remoteid": "mx.example.org"},
    {"session": 2, "age_s": 50.0, "caller": "nginx.service[2]", "state": "expect_handshake", "remoteid": ""},
    {"session": 3, "age_s": 0.5, "caller": "evil\x1b[31m[3]", "state": "relaying", "remoteid": "x" * 300},
]
CALLERS = [{"caller": "postfix.service", "uid": 89, "sessions": 3}, {"caller": "nginx.service", "uid": 33}]
ANSWERS = {
    "broker": {"ok": True},
    "keyd": {"ok": True, "signed": 7},
    "broker loads": {"ok": True, "window_s": 60.0, "outcomes": {"established": 3}, "lag_ms": {"p50": 1}},
}


def board(**fields):
    tables = {"sessions": SESSIONS, "callers": CALLERS, "workers": [], "tokens": []}
    return Board(sample=Sample(1.0, ANSWERS, tables, Level.FINE, "fine: 3 sessions", []), **fields)


def page(made, width=120, height=24):
    return [text for text, _ in made.lines(width, height)]


def press(made, *keys):
    return [wish for key in keys if (wish := made.key(key)) is not None]


def numbers(made):
    return [row["session"] for row in made.rows()]


def test_the_longest_session_comes_first_and_columns_can_be_chosen():
    made = board()
    assert numbers(made) == [2, 1, 3]
    press(made, "r")
    assert numbers(made) == [3, 1, 2]
    press(made, "r", ">")
    assert made.sort["sessions"] == "caller"
    assert [row["caller"][:4] for row in made.rows()] == ["evil", "ngin", "post"]
    press(made, "<", "<", "<", "<")
    assert made.sort["sessions"] == "worker"
    assert "worker*" in " ".join(page(made, width=200))


def test_what_it_looks_like():
    shown = page(board())
    assert shown[0] == "fine: 3 sessions"
    assert "established 3" in shown[1]
    assert "7 signed" in shown[3]
    assert "sessions: 3" in shown
    assert len(shown) == 24
    assert all(text.isprintable() and len(text) <= 120 for text in shown)


def test_filters():
    made = board()
    press(made, "/", *"post", "enter")
    assert numbers(made) == [1]
    assert made.words == []
    press(made, "/", *" state=relaying", "backspace", "g", "enter")
    assert made.words == ["state=relaying"]
    assert numbers(made) == [1]  # the broker is asked by the word; here is only what it said
    press(made, "/", *"zz", "escape")
    assert made.filter == "post state=relaying"
    press(made, "escape")
    assert numbers(made) == [2, 1, 3]
    press(made, "/")
    assert page(made)[-1].startswith("filter: ")


def test_ending_takes_a_second_key():
    made = board()
    assert press(made, "down", "x") == []
    assert made.mode is Mode.CONFIRM
    assert "end session 1 of postfix.service[1]?" in page(made)[-1]
    assert press(made, "n") == []
    assert "nothing was ended" in page(made)[-1]
    assert press(made, "x", "y") == [Kill({"session": 1})]
    assert press(made, "c", "x", "y") == [Kill({"caller": "postfix.service", "uid": 89})]
    assert press(made, "w", "x", "y") == []
    assert press(made, "q") == [Quit()]


def test_what_is_gone_when_it_is_confirmed_is_what_was_asked_about():
    made = board()
    press(made, "x")
    made.sample = Sample(2.0, ANSWERS, {**made.sample.tables, "sessions": SESSIONS[:1]}, Level.FINE, "", [])
    assert press(made, "y") == [Kill({"session": 2})]


def test_help_and_standing_still():
    made = board()
    press(made, "h", " ")
    assert any("standing still" in text for text in page(made))
    assert any("end the session" in text for text in page(made))
    press(made, "h", " ")
    assert not any("end the session" in text for text in page(made))


def test_before_the_first_answer():
    assert page(Board()) == ["asking the daemons..."]
    assert press(Board(), "x", "down", "c", "r", ">") == []


@given(
    st.lists(st.text(max_size=1) | st.sampled_from(["up", "down", "left", "right", "enter", "escape", "backspace"])),
    st.integers(1, 200),
    st.integers(1, 60),
)
def test_any_keys_and_any_size(keys, width, height):
    made = board()
    for key in keys:
        made.key(key)
        lines = made.lines(width, height)
        assert len(lines) <= height
        assert all(len(text) <= width and text.isprintable() for text, _ in lines)


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1b[B", ["up", "down"]),
        ("\x1bOC\x1bOD", ["right", "left"]),
        ("\x1b", ["escape"]),
        ("\x1b[15~x", ["x"]),
        ("\x1b[1;5A", []),
        ("\x03", ["q"]),
        ("\r\x7f", ["enter", "backspace"]),
        ("é\x00", ["é"]),
    ],
)
def test_keys(typed, keys):
    assert keys_untrusted(typed) == keys


@given(st.text())
def test_anything_typed_is_keys(text):
    assert all(len(key) > 1 or key.isprintable() for key in keys_untrusted(text))


def test_the_load_of_a_worker_is_between_two_looks():
    before = Sample(10.0, {}, {"workers": [{"pid": 5, "cpu_s": 1.0}]}, Level.FINE, "")
    row = sampling._with_load({"worker": 1, "pid": 5, "sessions": 2, "cpu_s": 1.5, "title": "t"}, 11.0, before)
    assert list(row) == ["worker", "pid", "sessions", "cpu_percent", "title", "cpu_s"]
    assert row["cpu_percent"] == 50.0
    assert sampling._with_load({"pid": 6, "cpu_s": 1.5}, 11.0, before)["cpu_percent"] == 0.0
    assert sampling._with_load({"pid": 6}, 11.0, None)["cpu_percent"] == 0.0
