"""So many in a second, and a count of the others."""

from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.event_table import PROVOKED
from tlspool_common.log import PROVOKED_LINES, Log
from tlspool_common.ration import Ration


def test_a_second_has_room_for_so_many():
    now_s = [5.0]
    ration = Ration(2, lambda: now_s[0])
    assert [ration.allows("a") for _ in range(4)] == [True, True, False, False]
    assert ration.allows("b")
    assert ration.withheld() == {}  # this second is not over
    now_s[0] = 6.1
    assert ration.withheld() == {"a": 2}
    assert ration.withheld() == {}
    assert ration.allows("a")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.7)), max_size=60), st.integers(1, 3))
def test_nothing_is_forgotten(steps, most):
    now_s, allowed, withheld = 0.0, 0, 0
    clock = [0.0]
    ration = Ration(most, lambda: clock[0])
    for name, more_s in steps:
        now_s += more_s
        clock[0] = now_s
        allowed += ration.allows(name)
        withheld += sum(ration.withheld().values())
    clock[0] += 2
    assert allowed + withheld + sum(ration.withheld().values()) == len(steps)


def test_lines_that_anybody_can_provoke_are_withheld_and_counted(capsys, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log, now_s, heard = Log("broker"), [7.0], []
    log._ration = Ration(PROVOKED_LINES, lambda: now_s[0])
    log.readers.append(lambda event, fields: heard.append(event))
    assert "session.failed" in PROVOKED
    for number in range(PROVOKED_LINES + 50):
        log.info("session.failed", session=number)
        log.info("session.end", session=number)
    now_s[0] += 1
    log.catch_up()
    lines = capsys.readouterr().err.splitlines()
    assert sum("session.failed session" in line for line in lines) == PROVOKED_LINES
    assert sum("session.end" in line for line in lines) == PROVOKED_LINES + 50
    assert lines[-1] == "WARNING broker: event=log.withheld of=session.failed count=50"
    assert heard.count("session.failed") == PROVOKED_LINES + 50
