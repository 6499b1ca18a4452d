"""One line per fact, and nothing in it can be anything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.log import Log, escape, line


def test_a_line():
    fields = {"session": 7, "remote": "a@b.example", "text": 'it said "no"\n', "empty": "", "dash": "-", "ok": True}
    fields["ms"] = 3.14159
    assert (
        line("x.done", fields)
        == 'event=x.done session=7 remote=a@b.example text="it said \\"no\\"\\x0a" empty=- dash="-" ok=yes ms=3.142'
    )


@given(st.text(max_size=600))
def test_any_text_stays_on_its_line_and_prints(text):
    shown = escape(text)
    assert shown.isprintable()
    assert "\n" not in shown
    assert len(shown) < 8 * 400 + 16
    if not (shown.startswith('"') and shown.endswith('"')):
        assert not set(shown) & set(' "=')


@pytest.mark.parametrize("fields", [{"pin_secret": "1234"}, {"data": b"bytes"}, {"thing": object()}])
def test_secrets_and_objects_are_refused(fields):
    with pytest.raises(ValueError):
        line("x", fields)


def test_levels(capsys, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log = Log("broker", "warning")
    log.info("no")
    log.debug("no")
    log.warning("yes", n=1)
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    Log("broker").error("also")
    assert capsys.readouterr().err == "WARNING broker: event=yes n=1\n<3>event=also\n"


def test_what_is_not_wanted_need_not_be_made():
    assert [level for level in ("debug", "info", "warning", "error") if Log("x", "warning").wants(level)] == [
        "warning",
        "error",
    ]
