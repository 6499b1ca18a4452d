"""Every parser that reads another process, a file of somebody's, or the network: the registry of fuzz targets.

To add one, write a Target (target.py) into the targets_*.py of its neighbourhood:

    Target("name", "what must hold, in words", check, seeds, tokens, most_b)

    def check(data: bytes) -> bool:      # whether it was taken; whatever it raises is a finding
        try:
            found = thing.read_untrusted(data)
        except ItsOneException:
            return False
        assert write(found) == data      # round trip, a second implementation, bounds: more than "does not crash"
        return True

That is all: test_fuzz_targets.py gives it mutants in the test run and replays what long runs have found
(corpus/NAME/), ``python -m tests.fuzz.long --target NAME`` runs it for long, and docs/fuzzing.md gets its row.

A function named ``*_untrusted`` that no target's seeds reach fails test_fuzz_targets.py.  Where there is a reason for
another kind of test, ELSEWHERE has it.  Order: as long runs go through them, what strangers reach first.
"""

from __future__ import annotations

from tests.fuzz import (
    targets_aaa,
    targets_admin,
    targets_audit,
    targets_broker,
    targets_online,
    targets_operate,
    targets_play,
    targets_radius,
    targets_radius_control,
    targets_tls,
    targets_wire,
)
from tests.fuzz.target import Target

TARGETS: tuple[Target, ...] = (
    *targets_tls.TARGETS,
    *targets_play.TARGETS,
    *targets_wire.TARGETS,
    *targets_aaa.TARGETS,
    *targets_online.TARGETS,
    *targets_radius.TARGETS,
    *targets_broker.TARGETS,
    *targets_operate.TARGETS,
    *targets_audit.TARGETS,
    *targets_admin.TARGETS,
    *targets_radius_control.TARGETS,
)
BY_NAME = {target.name: target for target in TARGETS}

ELSEWHERE = {
    # They need a socket, a kernel's message or a whole broker around them.
    "tlspool_broker/applications.py:Applications._take_fds_untrusted": "tests/fuzz/test_fuzz_applications.py",
    "tlspool_broker/apps.py:Apps.frame_untrusted": "tests/fuzz/test_fuzz_broker_core.py",
    "tlspool_broker/borders.py:Borders._first_untrusted": "tests/unit/test_broker_shell.py",
    "tlspool_broker/choice.py:decided_untrusted": "tests/fuzz/test_fuzz_broker_core.py",
    "tlspool_broker/chooser.py:Chooser._decide_untrusted": "tests/fuzz/test_fuzz_broker_core.py",
    "tlspool_keyd/services.py:Services.adopt_untrusted": "tests/unit/test_keyd_services.py",
}
"""Functions that no target reaches, each with the test that gives it what is wrong."""
