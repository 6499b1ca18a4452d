"""Whether what came of each session of a soak is explained by what was done meanwhile.

A session may fail only if something was done, while it was there, that EXPLAINS has for such a failure.  Nothing
explains a wrong byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from tests.soak.app import Told
from tests.soak.trouble import Disturbance

ANY = frozenset(range(1000))
NO_POOL = frozenset({0, 601, 602, 603, 604})
"""What an application reads when there is no broker, or one that has nobody yet; 0 is the library's own word."""

KEYD_GONE = frozenset({516, 601, 512, 513, 514, 508, 509})
"""Its secret is another one afterwards, so that grants of before are good for nothing."""

TOKEN_GONE = frozenset({501, 508, 509, 510})

ASKED = frozenset({802, 806})
"""No RADIUS server has answered, or no record can be kept: only who is asked about, by a rule that refuses then."""

RADIUS_REJECTED = 801

MUST_BE_ASKED = frozenset({"billed", "billed long", "barred"})
"""Kinds of sessions of which that is so."""

EXPLAINS: dict[str, dict[str, frozenset[int]]] = {
    # what was done -> how sessions may fail -> with which codes
    "end app": {},  # its sessions are not told about at all
    "end worker": {"setup": frozenset({603}), "relay": ANY, "control": frozenset({603, 115, 127})},
    "end master": {"setup": frozenset({602})},
    "end keyd": {"setup": KEYD_GONE},
    "end token": {"setup": TOKEN_GONE},
    "end helper": {},
    "end radius": {"setup": ASKED},
    "end server": {"setup": frozenset({802})},
    "end broker": {"setup": NO_POOL | {207}, "control": ANY, "relay": ANY},
    "stop app": {},
    "stop worker": {},
    "stop master": {},
    "stop keyd": {},
    "stop token": {},
    "stop helper": {},
    "stop radius": {},
    "stop server": {"setup": frozenset({802})},
    "stop broker": {},
    "slow token": {},
    "silent remotes": {},
}

KEPT = {"setup": NO_POOL | {207}, "control": NO_POOL | {115, 207}}
"""A broker that was ended, if sessions are to be kept: those that relay go on, and their control keys are good."""

GRACE_S = 1.0
"""Behind a disturbance: what was asked for before its end may be refused a moment later."""


class Verdict:
    """Judges sessions."""

    def __init__(
        self,
        record: Sequence[Disturbance],
        revocations: Sequence[tuple[float, float, bool]],
        *,
        keep: bool,
        log: Callable[[], str] = lambda: "",
    ) -> None:
        """``log`` returns what the broker has written."""
        self._record = record
        self._revocations = revocations
        self._explains = {**EXPLAINS, "end broker": KEPT} if keep else EXPLAINS
        self._log = log
        self.explained: dict[str, int] = {}

    def judge(self, told: Told) -> str:
        """Return what is not explained of a session; '' if it is."""
        if told.kind == "revoked" and told.outcome in ("ok", "setup") and told.code in (0, 409):
            states = self._revoked_within(told)
            if (told.code == 409) in states and (told.code or told.outcome == "ok"):
                return ""
        elif told.kind == "barred" and told.set_up:
            return f"{told}, who is not to be let in"
        elif told.outcome == "ok" or (told.kind == "barred" and told.code == RADIUS_REJECTED):
            return ""
        for one in self._record:
            if one.begun <= told.ended and one.ended + GRACE_S >= told.begun:
                codes = self._explains[one.what].get(told.outcome, frozenset())
                if told.kind not in MUST_BE_ASKED:
                    codes -= ASKED
                if told.code in codes and (one.what != "end worker" or self._worker_was_lost(told)):
                    self.explained[one.what] = self.explained.get(one.what, 0) + 1
                    return ""
        meanwhile = [one.what for one in self._record if one.begun <= told.ended and one.ended + GRACE_S >= told.begun]
        return f"{told} meanwhile: {', '.join(meanwhile) or 'nothing'}"

    def _worker_was_lost(self, told: Told) -> bool:
        """Whether it was the worker of this session that ended, by word of the broker, if that knew the session."""
        restarts = (one for one in self._record if one.what == "end broker")
        if told.outcome != "relay" or not told.session or any(
            one.begun <= told.ended and one.ended >= told.set_up for one in restarts
        ):  # fmt: skip
            return True
        pattern = (
            rf"event=session\.end session={told.session} [^\n]*reason=(worker_lost|ordered)"  # by SIGKILL, by SIGTERM
        )
        return re.search(pattern, self._log()) is not None

    def _revoked_within(self, told: Told) -> set[bool]:
        """Return whether the certificate was revoked at any time of a session."""
        found = set()
        for number, (begun, _, state) in enumerate(self._revocations):
            later = self._revocations[number + 1][1] if number + 1 < len(self._revocations) else float("inf")
            if begun <= told.ended and later >= told.begun:
                found.add(state)
        return found


def percentile(values: Iterable[float], part: float) -> float:
    """Return the value that so many of a hundred are below; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part / 100))] if ordered else 0.0
