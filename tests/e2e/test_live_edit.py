"""Three tools edit policy while a whole pool sets up sessions; for longer: `python -m tests.e2e.live_edit`."""

import pytest

from tests import report
from tests.e2e import live_edit


def test_each_session_is_decided_by_one_generation(own_pool, tmp_path):
    found = live_edit.run(own_pool, tmp_path, seconds=3, threads=4, changes=100, least=60)
    for line in live_edit.summary(found):
        report.row("policy edited while sessions are set up", line)
    live_edit.check(found)
    kinds = {(session.kind, bool(session.code)) for session in found.sessions}
    assert ("server", False) in kinds
    assert ("client", False) in kinds
    assert max(session.ended - session.begun for session in found.sessions) < 5
    explained = [session for session in found.sessions if session.number in found.accounts]
    assert len(explained) >= 60
    assert len({found.accounts[session.number]["generation"] for session in explained}) > 10
    # A generation beside the right one does not explain them, nor do other expressions.
    lines = found.lines
    found.lines = {number: (event, who, at - 1, group) for number, (event, who, at, group) in lines.items()}
    with pytest.raises(AssertionError):
        live_edit.check(found)
    found.lines = lines
    for account in found.accounts.values():
        for line in account.get("trace", ()):
            line["text"] = "L"
    with pytest.raises(AssertionError, match="'L'"):
        live_edit.check(found)
