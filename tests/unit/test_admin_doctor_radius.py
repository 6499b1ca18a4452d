"""What the doctor finds about RADIUS."""

import pytest

from tlspool_admin.doctor import radius
from tlspool_admin.doctor.finding import ERROR, NOTE, OK, WARNING
from tlspool_common.setting_remarks import Remark


def row(purpose, state, server="192.0.2.1:1812"):
    return {"purpose": purpose, "server": server, "state": state}


@pytest.mark.parametrize(
    ("answer", "levels"),
    [
        ("refused: no", [ERROR]),
        ({"helper": {"state": "starting"}}, [ERROR]),
        ({"servers": []}, []),
        ({"servers": [row("authz", "up"), row("acct", "up")]}, [OK, OK]),
        ({"servers": [row("authz", "dead"), row("authz", "up")]}, [WARNING, OK]),
        ({"servers": [row("authz", "dead"), row("acct", "up")]}, [ERROR, OK]),
        ({"servers": [], "spool": {"state": "unusable", "trouble": "no database"}}, [ERROR]),
        ({"servers": [], "oldest_s": 3600, "waiting": 1}, []),
        ({"servers": [], "oldest_s": 3601, "waiting": 9}, [WARNING]),
    ],
)
def test_servers(answer, levels):
    found = radius.servers(answer)
    assert [one.level for one in found] == levels
    assert all(one.remedy for one in found if one.level != OK)


def test_settings():
    remarks = [Remark(level, "radius_acct", "x", "text", "remedy") for level in ("error", "warning", "note")]
    found = radius.settings(remarks)
    assert [(one.level, one.subject) for one in found] == [(level, "radius_acct x") for level in (ERROR, WARNING, NOTE)]
