"""Half a minute of the soak: `make soak-service` has it for longer."""

import dataclasses

import pytest

from tests import report
from tests.soak.__main__ import soak
from tests.soak.app import Told
from tests.soak.trouble import Disturbance
from tests.soak.verdict import GRACE_S, Verdict
from tests.soak.watch import Count, Watch

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_everything_is_explained_and_nothing_is_left(tmp_path):
    done = soak(tmp_path, seconds=20, seed=7, keep=False, apps=2, threads=3)
    figures = done.figures()
    report.row("soak", *(f"{name}: {figures[name]}" for name in ("sessions", "disturbances", "probes")))
    assert not done.violations(), done.violations()[:5]
    assert figures["sessions"] > 50
    kinds = {kind for kind, outcome in done.outcomes if outcome == "ok"}
    assert {"server", "client", "probe", "slow peer", "billed", "billed open"} <= kinds
    assert figures["accounted for"]["octets compared and equal"] > 5
    assert {"slow token", "silent remotes"} <= set(figures["disturbances"])
    assert figures["locks"]


def told(**fields):
    return dataclasses.replace(Told(1, "server", 10.0, 0.0, 20.0, "setup", 603, "[603]"), **fields)


@pytest.mark.parametrize(
    ("what", "fields", "is_explained"),
    [
        ("end worker", {}, True),
        ("end worker", {"outcome": "relay", "code": 0}, True),
        ("end worker", {"outcome": "wrong"}, False),
        ("end worker", {"code": 602}, False),
        ("end worker", {"begun": 31 + GRACE_S, "ended": 40.0}, False),
        ("end worker", {"begun": 2.0, "ended": 3.0}, False),
        ("stop worker", {}, False),
        ("end broker", {"outcome": "relay", "code": 0}, True),
        ("slow token", {"code": 510}, False),
    ],
)
def test_only_what_was_done_meanwhile_explains_a_failure(what, fields, is_explained):
    verdict = Verdict([Disturbance(what, 15.0, 30.0)], [], keep=False)
    assert (verdict.judge(told(**fields)) == "") is is_explained
    assert verdict.judge(told(outcome="ok")) == ""


def test_another_worker_explains_nothing():
    log = "event=session.end session=5 caller=x reason=worker_lost by=\nevent=session.end session=6 reason=clean\n"
    verdict = Verdict([Disturbance("end worker", 15.0, 30.0)], [], keep=False, log=lambda: log)
    assert not verdict.judge(told(outcome="relay", code=0, session=5))
    assert verdict.judge(told(outcome="relay", code=0, session=6))


def test_sessions_are_kept_when_they_should_be():
    verdict = Verdict([Disturbance("end broker", 15.0, 30.0)], [], keep=True)
    assert verdict.judge(told(outcome="relay", code=0))
    assert not verdict.judge(told(code=602))


@pytest.mark.parametrize(
    ("begun", "ended", "code", "is_right"),
    [
        (1.0, 2.0, 0, True),
        (1.0, 2.0, 409, False),
        (10.5, 10.6, 0, True),  # the change is under way
        (10.5, 10.6, 409, True),
        (12.0, 13.0, 409, True),
        (12.0, 13.0, 0, False),
        (12.0, 13.0, 402, False),
    ],
)
def test_a_revocation_is_in_force_from_its_answer_on(begun, ended, code, is_right):
    verdict = Verdict([], [(0.0, 0.0, False), (10.0, 11.0, True)], keep=False)
    outcome = "setup" if code else "ok"
    one = Told(1, "revoked", begun, 0.0, ended, outcome, code)
    assert (verdict.judge(one) == "") is is_right


@pytest.mark.parametrize(
    ("fds", "kib", "what"),
    [
        ([20, 21, 22, 21], [50_000, 60_000, 61_000, 62_000], ""),
        ([20, 21, 30, 40], [50_000, 60_000, 61_000, 62_000], "descriptors became 40"),
        ([20, 21, 22, 21], [50_000, 60_000, 75_000, 90_000], "60000 KiB became 90000 in 200 sessions"),
    ],
)
def test_what_grows_is_told(fds, kib, what):
    watch = Watch(None)
    watch.lives["broker", 1, 1] = [
        Count(at, 100 * at, *held) for at, held in enumerate(zip(fds, kib, strict=True))
    ]  # fmt: skip
    watch.files, watch.locks = [["a"], ["a"]], [{"nlocks": 6, "nlockers": 6}, {"nlocks": 9, "nlockers": 6}]
    assert (what in " ".join(watch.judge())) if what else not watch.judge()
    watch.files.append(["a", "b"])
    watch.locks.append({"nlocks": 60, "nlockers": 6})
    assert len(watch.judge()) == (2 if not what else 3)
