"""What the soak says of a RADIUS server's records, and of sessions that were refused."""

import re

import pytest

from tests.soak.app import Told
from tests.soak.bills import Bills
from tests.soak.trouble import Disturbance
from tests.soak.verdict import Verdict

USER = "a0-1@home.example"


def told(outcome="ok", code=0, kind="billed", set_up=1.0, size_b=5000, greeting_b=0, user=USER):
    return Told(0, kind, 1.0, set_up, 2.0, outcome, code, size_b=size_b, user=user, greeting_b=greeting_b)


def record(status, number, octets=5000, cause="User-Request", acct_id="s1", user=USER, high=0, sent=None):
    found = {"Acct-Status-Type": status, "Acct-Session-Id": acct_id, "TLSPool-Record-Id": str(number)}
    found["User-Name"] = user
    if status == "Stop":
        found |= {
            "Acct-Input-Octets": str(octets),
            "Acct-Output-Octets": str(sent or octets),
            "Acct-Terminate-Cause": cause,
        }
        found |= {"Acct-Input-Gigawords": str(high), "Acct-Output-Gigawords": str(high)}
    return {name: [value] for name, value in found.items()}


def judged(records, *sessions, done=()):
    bills = Bills([Disturbance(what, 1.5, 1.6) for what in done])
    for one in sessions:
        bills.note(one)
    bills.judge(records)
    return bills


START, STOP = record("Start", 1), record("Stop", 2)


@pytest.mark.parametrize(
    ("records", "session", "done"),
    [
        ([START, STOP], told(), ()),
        ([START, record("Interim-Update", 3), STOP], told(), ()),
        ([START, START, STOP, STOP], told(), ()),
        ([START, STOP, START], told(), ()),
        ([START, record("Stop", 2, 0, "NAS-Error")], told(), ("end worker",)),
        ([START, record("Stop", 2, 0, "NAS-Reboot")], told(), ("end broker",)),
        ([START, record("Stop", 2, 70)], told("relay"), ()),
        ([START, record("Stop", 2, 1, high=1)], told(size_b=2**32 + 1), ()),
        ([START, record("Stop", 2, sent=5070)], told(greeting_b=70), ()),
        ([], told("setup", 802, set_up=0.0), ()),
        ([], told("setup", 603, set_up=0.0), ()),
        ([START, record("Stop", 2, 0)], told("setup", 603, set_up=0.0), ()),
        ([START, STOP], told(user="somebody else", outcome="setup", set_up=0.0), ()),
    ],
    ids=[
        "right", "updated", "each twice", "one twice, late", "its worker died", "broker and worker died", "broken",
        "more than four gigabytes", "greeted", "refused", "never begun", "begun, never relayed",
        "its application was killed",
    ],
)  # fmt: skip
def test_records_that_are_right(records, session, done):
    assert judged(records, session, done=done).faults == []


@pytest.mark.parametrize(
    ("records", "session", "done", "word"),
    [
        ([], told(), (), "no records of"),
        ([START], told(), (), r"has \['Start'\]"),
        ([STOP], told(), (), r"has \['Stop'\]"),
        ([STOP, START], told(), (), r"has \['Stop', 'Start'\]"),
        ([START, STOP, record("Stop", 3)], told(), (), r"has \['Start', 'Stop', 'Stop'\]"),
        ([START, record("Start", 3), STOP], told(), (), r"has \['Start', 'Start', 'Stop'\]"),
        ([START, record("Stop", 2, user="b@home.example")], told(), (), "about"),
        ([START, STOP, record("Start", 3, acct_id="s2"), record("Stop", 4, acct_id="s2")], told(), (), "s1 and s2"),
        ([START, record("Stop", 2, 4999)], told(), (), r"octets \[4999, 4999\] of"),
        ([START, record("Stop", 2, 5000, high=1)], told(), (), "octets"),
        ([START, record("Stop", 2, 5070, sent=5000)], told(greeting_b=70), (), r"octets \[5070, 5000\] of"),
        ([START, record("Stop", 2, 5001, sent=5070)], told("relay", greeting_b=70), (), "too many"),
        ([START, record("Stop", 2, 5001)], told("relay"), (), "too many"),
        ([START, record("Stop", 2, 5001, "NAS-Error")], told(), ("end worker",), "too many"),
        ([START, record("Stop", 2, 0, "NAS-Error")], told(), ("end broker",), "nothing was done"),
        ([START, record("Stop", 2, 0, "NAS-Reboot")], told(), ("end worker",), "nothing was done"),
        ([START, STOP], told("setup", 802, set_up=0.0), (), "who was refused"),
    ],
)
def test_records_that_are_wrong(records, session, done, word):
    (fault, *_) = judged(records, session, done=done).faults
    assert re.search(word, fault)


def test_figures():
    bills = judged([START, STOP, STOP, record("Start", 5, acct_id="s2", user="b@home.example"),
                    record("Stop", 6, acct_id="s2", user="b@home.example")], told())  # fmt: skip
    assert bills.figures == {
        "sessions": 2, "records": 4, "sent twice": 1, "octets compared and equal": 1, "nobody told about": 1,
        "ended by User-Request": 2,
    }  # fmt: skip


# --- who may be refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "done", "explained"),
    [
        (told("setup", 802, set_up=0.0), "end server", True),
        (told("setup", 802, set_up=0.0), "stop server", True),
        (told("setup", 802, set_up=0.0), "end radius", True),
        (told("setup", 806, set_up=0.0), "end radius", True),
        (told("setup", 806, set_up=0.0), "end server", False),
        (told("setup", 802, set_up=0.0), "stop radius", False),
        (told("setup", 802, set_up=0.0), "end broker", False),
        (told("setup", 802, set_up=0.0, kind="billed open"), "end server", False),
        (told("setup", 802, set_up=0.0, kind="server"), "end server", False),
        (told("setup", 801, set_up=0.0), "end server", False),
        (told("setup", 801, set_up=0.0, kind="barred"), "stop app", True),
        (told("setup", 802, set_up=0.0, kind="barred"), "stop app", False),
        (told(kind="barred"), "end server", False),
        (told("relay", kind="barred"), "end worker", False),
        (told(kind="billed open"), "end server", True),
    ],
)
def test_who_may_be_refused(session, done, explained):
    verdict = Verdict([Disturbance(done, 1.5, 1.6)], [], keep=True)
    assert (verdict.judge(session) == "") is explained


def test_nobody_is_refused_when_the_server_is_there_again():
    verdict = Verdict([Disturbance("stop server", -5.0, -1.0)], [], keep=True)
    assert "meanwhile: nothing" in verdict.judge(told("setup", 802, set_up=0.0))
