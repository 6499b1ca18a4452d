"""What the broker asks the network, by way of a helper: are certificates of remotes revoked; staples for ours.

Theory of operation.  The helper (tlspool_online) is one of two; helper.py says how they live.

* It takes 18 MiB that are its own, and half a second to start.  So it is *wanted* from the broker's start on where the
  configuration will have it asked (``crl_file``, ``validation`` with any of RrOo), and elsewhere from the first session
  on that may have to ask, before its handshake begins.  A pool whose policy asks nobody goes without.
* Who asks it while it starts may wait for that on top (``start_left_ms``): its own time is for the network.

A *staple* is an OCSP response for a certificate of ours.  A handshake takes what is there and never waits for it; what
is missing, or has lived half its life, is asked for on that occasion.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass

from tlspool_broker.events import FromHelper, HelperKind, HelperNumber
from tlspool_broker.helper import HUNG_MS, PAUSE_MS, Counters, Helper
from tlspool_broker.out import Out
from tlspool_broker.validation import expression, predicates
from tlspool_common.messages import AskRevocation, AskStaple, Message, RevocationTold, StapleTold
from tlspool_common.settings import Settings

QUESTIONS = 256
"""Open questions: as many handshakes as wait for the network at a time.  One has a chain in it, so some MiB in all."""

STAPLES = 256
"""Certificates of ours whose staples are kept; a pool with more than that asks for some of them again."""

STAPLE_WAIT_MS = 30_000
"""For a staple to be fetched: nobody waits for it."""

STAPLE_AGAIN_MS = 600_000
"""Until a staple is asked for again that could not be had."""

STAPLE_REFRESH_MS = 86_400_000
"""Until a staple is asked for again at the latest: what a responder, or the helper, says of its life may be years."""

_OCSP_ACCESS = bytes.fromhex("06082b06010505073001")
"""The identifier of an OCSP responder in a certificate (RFC 5280 section 4.2.2.1), as DER has it."""

Told = Callable[["RevocationTold | None"], None]


@dataclass(slots=True)
class _Staple:
    """A response (b"" if there is none), the time it is not used any more, and the time to ask again."""

    response: bytes
    until_ms: float
    again_ms: float


class Online:
    """The helper that asks the network, as far as there is one."""

    def __init__(self, out: Out, settings: Settings, unix_time_s: Callable[[], float]) -> None:
        self._out = out
        self._unix_time_s = unix_time_s
        self.helper = Helper(out, HelperKind.ONLINE, QUESTIONS)
        self._configure(settings)
        self._staples: OrderedDict[bytes, _Staple] = OrderedDict()
        self._staples_asked = self._staples_fetched = 0

    def __len__(self) -> int:
        return len(self.helper)

    def _configure(self, settings: Settings) -> None:
        self._network = settings.online
        always = bool(settings.crl_file) or bool(expression.needs([settings.validation]) & predicates.SLOW)
        self.helper.configure(used=settings.online or bool(settings.crl_file), always=always)

    def reconfigured(self, settings: Settings) -> None:
        """Go by other settings; the helper is replaced when it is idle."""
        self._configure(settings)
        self.helper.reconfigured()

    def want(self) -> None:
        """It may be asked soon."""
        self.helper.want()

    @property
    def start_left_ms(self) -> int:
        """How much longer the helper may take to start; 0: it has, or there is none."""
        return self.helper.start_left_ms

    @property
    def counters(self) -> Counters:
        """What has become of questions about remotes."""
        return self.helper.counters

    def describe(self) -> dict[str, object]:
        """Describe the helper for an operator."""
        return {
            "state": self.helper.state,
            "questions": len(self.helper),
            "staples": sum(bool(staple.response) for staple in self._staples.values()),
            **asdict(self.counters),
            "staples_asked": self._staples_asked,
            "staples_fetched": self._staples_fetched,
        }

    def ask(self, message: AskRevocation, told: Told, sent: Callable[[], None] = lambda: None) -> int:
        """Ask about a chain; ``told`` hears the answer, or None if there will be none.  0: nobody can be asked.

        If the helper has to start first, ``sent`` is called when it has.
        """

        def answered(answer: Message | None) -> None:
            told(answer if isinstance(answer, RevocationTold) else None)

        return self.helper.ask(message, answered, message.deadline_ms, sent)

    def forget(self, number: int) -> None:
        """Nobody wants to know any more what was asked under this number."""
        self.helper.forget(number)

    def said(self, helper: HelperNumber, exchange: int, message: FromHelper) -> None:
        """Take a message."""
        if self.helper.is_current(helper):
            self.helper.said(helper, exchange, message)

    # --- staples --------------------------------------------------------------------------------------

    def staple(self, chain: tuple[bytes, ...]) -> bytes:
        """Return a response for a certificate of ours, or b""; ask for it if there is reason to."""
        if not self._network or len(chain) < 2 or _OCSP_ACCESS not in chain[0]:
            return b""
        now_ms = self._out.now_ms
        key = hashlib.sha256(chain[0]).digest()
        found = self._staples.get(key)
        if found is None or now_ms >= found.again_ms:
            found = self._staples.setdefault(key, _Staple(b"", 0, 0))
            asked = self.helper.ask(
                AskStaple(chain=chain, deadline_ms=STAPLE_WAIT_MS),
                lambda told: self._staple_told(key, told),
                STAPLE_WAIT_MS,
                quiet=True,
            )
            self._staples_asked += bool(asked)
            found.again_ms = now_ms + (STAPLE_WAIT_MS + HUNG_MS if asked else PAUSE_MS[0])
            while len(self._staples) > STAPLES:
                self._staples.popitem(last=False)
        self._staples.move_to_end(key)
        return found.response if now_ms < found.until_ms else b""

    def _staple_told(self, key: bytes, message: Message | None) -> None:
        staple = self._staples.get(key)
        if staple is None:
            return
        if not isinstance(message, StapleTold):
            staple.again_ms = self.helper.quiet_until_ms
            return
        now_ms = self._out.now_ms
        left_ms = (message.until_s - self._unix_time_s()) * 1000 if message.response else 0
        if left_ms <= 0:
            staple.again_ms = now_ms + STAPLE_AGAIN_MS
            self._out.note("debug", "staple.absent", detail=message.detail)
            return
        self._staples_fetched += 1
        staple.response, staple.until_ms = message.response, now_ms + left_ms
        staple.again_ms = now_ms + max(min(left_ms / 2, STAPLE_REFRESH_MS), STAPLE_AGAIN_MS)
        self._out.note("debug", "staple.fetched", detail=message.detail, left_s=int(left_ms / 1000))
