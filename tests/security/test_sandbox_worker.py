"""A worker that was taken over reaches nothing: Python of an attacker's choice runs where a worker would serve.

It is a worker that the real master has forked, behind the real start-up, with the channels of a real broker and key
daemon.  Each attempt is made a second time in a worker with ``sandbox off``, where it must get through to the kernel:
an attempt that fails everywhere would show nothing.
"""

import os
import re
import signal
import time

import pytest

from tests import report
from tests.fixtures.attempts import INTO_USER_NAMESPACE, has_user_namespaces
from tests.fixtures.attempts_system import KILLED, REFUSED
from tests.fixtures.intrusion import Aims, Intrusion
from tlspool_admin.devpool import DevPool

KEYD = {
    "keyd: a signature without a grant": "512 GRANT_REFUSED",
    "keyd: a signature for random bytes as a grant": "512 GRANT_REFUSED",
    "keyd: a signature for a grant that it has sealed itself": "512 GRANT_REFUSED",
    "keyd: a message that is not in the table": "channel closed",
}
NOBODYS = {"pass a descriptor that it has not (SCM_RIGHTS)"}
"""What the kernel refuses with or without a sandbox, so that its own error is what is looked for."""

SIGSYS = "killed (SIGSYS)"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each attempt, inside and outside."""
    directory = tmp_path_factory.mktemp("worker")
    pool = DevPool(directory / "p")
    pool.up("ec", [f"workers {2 + len(KILLED)}"])
    try:
        pids = pool.running()
        end(pids["worker"])
        aims = Aims(directory / "aims", broker=pids["broker"], keyd=pids["keyd"])
        try:
            yield {inside: run(pool, directory, aims, inside) for inside in (True, False)}
        finally:
            aims.close()
        assert set(pool.running()) == {"broker", "keyd"}, "a daemon did not survive"
    finally:
        pool.down()


def end(pid):
    """End a daemon, and wait until it has."""
    held = os.pidfd_open(pid)
    signal.pidfd_send_signal(held, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.close(held)


def run(pool, directory, aims, inside):
    config = pool.config
    if not inside:
        config = directory / "off.conf"
        config.write_text(pool.config.read_text() + "sandbox off\n")
    log = directory / f"log-{inside}"
    with Intrusion("worker", ["--config", str(config)], log, aims, inside=inside) as intrusion:
        done = "keyd: a message that is not in the table"
        intrusion.wait_for(lambda: done in intrusion.outcomes("worker"), "the attacker does not come to an end")
        intrusion.wait_for(lambda: all(ended(intrusion)), "not all of the others have ended")
        found = intrusion.outcomes("worker")
        found |= {one.name: SIGSYS for one in KILLED if killed(intrusion, one.name)}
    return found


def ended(intrusion):
    outcomes = intrusion.outcomes("worker")
    for one in KILLED:
        yield outcomes.get(one.name, "tries") != "tries" or killed(intrusion, one.name)


def killed(intrusion, name):
    """Whether the process that tried it is gone by SIGSYS, by word of its master."""
    pids = [line["pid"] for line in intrusion.lines() if line["name"] == name]
    gone = re.findall(
        r"event=worker\.gone worker=(\d+) status=159 meaning=\"killed by SIGSYS\"", intrusion.log.read_text()
    )
    return bool(pids) and str(pids[-1]) in gone


def shown(title, name, inside, outside):
    report.row(title, name, inside, outside)


def passes_outside(attempt, outcome):
    """Whether an attempt came through to the kernel where there is no sandbox."""
    if attempt.root and os.getuid() != 0:
        return True
    if attempt.name in NOBODYS or (attempt.name == INTO_USER_NAMESPACE and not has_user_namespaces()):
        return True
    return outcome not in ("tries", SIGSYS, "EPERM", "EACCES") or outcome == "done"


TITLE = "a worker that was taken over: attempts (inside its sandbox; outside)"


@pytest.mark.parametrize("attempt", REFUSED, ids=lambda one: one.name)
def test_refused(outcomes, attempt):
    inside, outside = outcomes[True][attempt.name], outcomes[False][attempt.name]
    shown(TITLE, attempt.name, inside, outside)
    if attempt.name in NOBODYS:
        assert inside == "errno 9 Bad file descriptor"
    else:
        assert inside.split()[0] in ("EPERM", "EACCES", "ENOSYS")
    assert passes_outside(attempt, outside)


@pytest.mark.parametrize("attempt", KILLED, ids=lambda one: one.name)
def test_killed(outcomes, attempt):
    inside, outside = outcomes[True][attempt.name], outcomes[False][attempt.name]
    shown(TITLE, attempt.name, inside, outside)
    assert inside == SIGSYS
    assert outside not in ("tries", SIGSYS)


@pytest.mark.parametrize("name", KEYD)
def test_keyd_refuses(outcomes, name):
    """keyd is no matter of the sandbox: it refuses in either case."""
    shown(TITLE, name, outcomes[True][name], outcomes[False][name])
    assert outcomes[True][name] == outcomes[False][name] == KEYD[name]


def test_there_are_enough(outcomes):
    assert len(REFUSED) + len(KILLED) + len(KEYD) >= 100
    assert not {one.name for one in REFUSED} & {one.name for one in KILLED}
