"""Judging remotes: what is asked of a session's worker, what the broker makes of it, and when.

Theory of operation.  Most sessions are not judged here: the worker holds the remote against the anchors and the
expected name, and that is all there is to say.  A session is *judged* where anything else may matter: a validation
expression, an anchor that has one, pins or revocations in the databases.

    StartSession(asks) -> RemoteShown -> Verdict, at once                                -> HandshakeDone, judged again
                                     \\-> EXPECT_ADVICE: AskRevocation, answer or timer -> Verdict

* What must hold is the conjunction of the *sources*: the expressions of our identity, of the selector that disclosed
  it, of the crypto policy, of the configuration (``validation``), of the anchor that the remote's chain ends at; and
  the baseline (validation/judgement.py).  What is known to be revoked is refused, whether an expression asks or not.
* The worker's word is all there is about a remote's certificate.  It is held to what it said first.
* Where the end of the handshake tells more than was known in the middle (TLS 1.2: the group), the session is judged
  once more, with what was found out meanwhile; nobody is asked again.  Who shows nothing is judged there only.
* Who we are may be open when a worker gets a server's session.  Then it is asked if any identity might need it.
* Undecided is refused: when the helper is absent or slow, and when nobody can know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from tlspool_broker.briefing import NEVER, parameters_of
from tlspool_broker.credentials import Anchor
from tlspool_broker.events import SendWorker
from tlspool_broker.online import Online
from tlspool_broker.out import Out
from tlspool_broker.policy import NOTHING_ASKED, Asks, Plan, Terms
from tlspool_broker.session import Happening, Session, State
from tlspool_broker.validation import expression, facts, judgement, predicates, revocation
from tlspool_broker.validation.facts import Context, Facts
from tlspool_broker.validation.judgement import Judgement, Source
from tlspool_broker.waits import bound_wait
from tlspool_broker.wanted import Records
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.log import Value
from tlspool_common.messages import (
    AskRevocation,
    HandshakeDone,
    RemoteAuth,
    RemoteShown,
    RemoteTold,
    RevocationTold,
    Side,
    Verdict,
    prose,
)
from tlspool_common.record import record
from tlspool_common.settings import Settings

ALERT_MS = 5_000
"""For a worker to tell a remote that it was refused: one record."""

GRACE_MS = 250
"""The helper is to answer so much sooner than the session's timer fires."""

_ALWAYS = ("", "1")
_OF_LISTS, _OF_RESPONDERS = frozenset("Rr"), frozenset("Oo")
_REVOKED = Source("revocations", "r", waives=False)

_UNTOLD: dict[str, bool | None] = dict.fromkeys("LlEeRrOoQp")
"""What is about the chain, or about first use, and so not known of a remote that is asked again."""


@record
class _Anchors:
    """The trust anchors of one generation, by certificate, and the letters that matter to them, by our role."""

    by_sha256: Mapping[bytes, Sequence[Anchor]]
    letters: Mapping[Side, AbstractSet[str]]


class Judging:
    """Asks, judges and answers."""

    def __init__(self, out: Out, settings: Settings, online: Online, unix_time_s: Callable[[], float]) -> None:
        self._out = out
        self._settings = settings
        self._online = online
        self._unix_time_s = unix_time_s
        self._anchors: dict[int, _Anchors] = {}

    # --- before the handshake -------------------------------------------------------------------------

    def asks(self, session: Session) -> Asks:
        """Return what a worker is to ask, by what is known of the session so far.

        Raises:
            PoolError: what the databases raise.
        """
        plans = [session.plan] if session.as_server is None else [session.plan, session.as_server]
        if session.plan.remote_auth is RemoteAuth.IGNORE:
            return NOTHING_ASKED
        records = session.records
        open_ended = records.judged_identities(Side.SERVER) and any(
            plan.side is Side.SERVER and (plan.localid is None or session.asks_localid) for plan in plans
        )
        texts = [source.text for plan in plans for source in self._sources(session, plan)]
        sides = {plan.side for plan in plans}
        trust = any(records.needs_judging(side) for side in sides)
        if not open_ended and not trust and all(text in _ALWAYS for text in texts):
            return NOTHING_ASKED
        letters = expression.needs(texts)
        if trust:
            letters = letters.union(*(self._anchors_of(records).letters[side] for side in sides))
        if letters & predicates.SLOW:
            self._online.want()
        slow = bool(letters & predicates.SLOW) or open_ended
        return Asks(True, slow, bool(letters & _OF_RESPONDERS) and session.plan.side is Side.CLIENT)

    def terms(self, session: Session) -> Terms:
        """Return what a handshake is under, by what is known of who we are.

        Raises:
            PoolError: POLICY_UNKNOWN, POLICY_EMPTY; or what the databases raise.
        """
        names_anchors = True
        if session.asks.asks and session.plan.side is Side.SERVER:
            names_anchors = judgement.needs_anchor(self._sources(session, session.plan))
        return Terms(parameters_of(session, session.plan, self._settings), names_anchors)

    def _sources(self, session: Session, plan: Plan) -> tuple[Source, ...]:
        """Return the expressions that do not depend on the remote's credential.

        They are found out once for each plan: a session that has begun goes on under the configuration of that time.
        """
        known = session.sources
        if known is None or known[0] is not plan or known[1] is not session.records:
            known = session.sources = plan, session.records, self._look_up_sources(session, plan)
        return known[2]

    def _look_up_sources(self, session: Session, plan: Plan) -> tuple[Source, ...]:
        records, request = session.records, session.request
        found = []
        if plan.localid is not None and (plan.side is Side.SERVER or plan.credentials):
            found.append(Source(f"localid {plan.localid}", records.expression(plan.localid, plan.side)))
        if plan.side is Side.CLIENT and request.remoteid and plan.remote_auth is not RemoteAuth.IGNORE:
            remote = parse_untrusted(request.remoteid)
            text = records.disclosure_expression(remote)
            if text:
                found.append(Source(f"disclose {records.disclosure(remote)[0]}", text))
        parameters = parameters_of(session, plan, self._settings)
        found.append(Source(f"crypto policy {parameters.name}", parameters.expression, waives=False))
        found.append(Source("setting validation", self._settings.validation))
        return tuple(source for source in found if source.text)

    # --- in the handshake -----------------------------------------------------------------------------

    def shown(self, session: Session, shown: RemoteShown) -> None:
        """Judge what a remote shows; its handshake waits."""
        session.shown = shown
        judged = self.consider(session)
        if judged.outcome is None and judged.slow and self._ask(session, shown, judged):
            session.judgement = judged
            session.move(Happening.REMOTE_SHOWN, State.EXPECT_ADVICE)
            self._bound_advice(session)
            self._out.note("debug", "session.asks_online", session=session.session_id, letters="".join(judged.slow))
            return
        self._decide(session, judged, Happening.REMOTE_SHOWN)

    def _ask(self, session: Session, shown: RemoteShown, judged: Judgement) -> bool:
        """Have the helper asked, if there is time, and somebody to ask."""
        wait_ms = self._settings.validation_wait_s * 1000
        if session.deadline_ms is not None:
            wait_ms = min(wait_ms, session.deadline_ms - self._out.now_ms)
        letters = set(judged.slow)
        wants = (1 if letters & _OF_LISTS else 0) | (2 if letters & _OF_RESPONDERS else 0)
        message = AskRevocation(
            wants=wants,
            chain=shown.chain,
            crl_urls=shown.crl_urls,
            ocsp_urls=shown.ocsp_urls,
            deadline_ms=max(1, int(wait_ms - min(GRACE_MS, wait_ms / 4))),
        )
        if wait_ms <= 0 or not shown.chain:
            return False
        session.question = self._online.ask(
            message, lambda told: self._advised(session, told), lambda: self._bound_advice(session)
        )
        return session.question != 0

    def _bound_advice(self, session: Session) -> None:
        """Bound the wait for the helper's answer, and for the helper itself if it starts only now."""
        if session.state is State.EXPECT_ADVICE:
            bound_wait(self._out, session, self._settings.validation_wait_s * 1000 + self._online.start_left_ms)

    def _advised(self, session: Session, told: RevocationTold | None) -> None:
        """The helper has answered, or will not."""
        session.question = 0
        if session.state is State.EXPECT_ADVICE:
            session.advice = told
            self._take_advice(session)

    def late(self, session: Session) -> None:
        """The helper has not answered in time."""
        self.forget(session)
        self._take_advice(session)

    def forget(self, session: Session) -> None:
        """A session is over, or goes on without advice."""
        if session.question:
            self._online.forget(session.question)
            session.question = 0

    def _take_advice(self, session: Session) -> None:
        self._decide(session, self.consider(session), Happening.ADVISED)

    def _decide(self, session: Session, judged: Judgement, happening: Happening) -> None:
        """Tell the worker."""
        session.judgement = judged
        if session.shown is not None:
            # Nobody is asked about the certificates again, and there may be 100 KiB of them in each of many sessions.
            session.shown = facts.without_chain(session.shown)
        code, detail = (Code.OK, "") if judged.outcome else (judged.code, judged.detail)
        worker = session.worker
        if worker is None:
            raise PoolError(Code.INTERNAL, f"session {session.session_id} is in no worker")
        self._out(SendWorker(worker.number, Verdict(session_id=session.session_id, code=code, detail=prose(detail))))
        if judged.outcome:
            session.move(happening, State.EXPECT_HANDSHAKE)
            if happening is Happening.ADVISED:
                bound_wait(self._out, session)
        else:
            session.refusal = PoolError(code, detail)
            session.move(happening, State.EXPECT_ALERT)
            bound_wait(self._out, session, ALERT_MS)

    # --- after the handshake --------------------------------------------------------------------------

    def done(self, session: Session, done: HandshakeDone) -> bool:
        """Judge a session by everything that is known in the end; return whether an expression has accepted it.

        Raises:
            PoolError: what it is refused for; INTERNAL, the worker does not say what it said before.
        """
        plan, shown = session.plan, session.shown
        if session.asks.asks:
            said = (b"", (), False) if shown is None else (shown.leaf_sha256, shown.names, True)
            if said[:2] != (done.remote_sha256, done.remote_names) or done.remote_verified > said[2]:
                raise PoolError(
                    Code.INTERNAL, f"session {session.session_id}: the remote has shown another certificate"
                )
        elif plan.remote_auth is not RemoteAuth.IGNORE or not self._sources(session, plan):
            return False
        if shown is None and plan.remote_auth is RemoteAuth.REQUIRE:
            return False  # that it showed nothing is reason enough
        judged = session.judgement
        if shown is None or judged is None or _news(shown, done):
            judged = session.judgement = self.consider(session, done)
        if not judged.outcome:
            raise PoolError(judged.code, judged.detail)
        return shown is not None

    def again(self, session: Session, answer: RemoteTold) -> None:
        """Judge a remote that was asked again while the session relays, as far as that can be done by what is told.

        A worker does not describe the chain then.  What cannot be judged without is not decided, so it is refused.

        Raises:
            PoolError: what it is refused for.
        """
        records, plan, done = session.records, session.plan, session.facts
        if done is None or not answer.remote_sha256:
            return
        if records.needs_judging(plan.side):
            raise PoolError(Code.VALIDATION_UNDECIDED, "anchors, pins and revocations are judged in handshakes only")
        sources = self._sources(session, plan)
        if all(source.text in _ALWAYS for source in sources):
            return
        shown = replace(
            facts.NOTHING_SHOWN,
            session_id=session.session_id,
            tls_version=done.tls_version,
            cipher=done.cipher,
            group=done.group,
            fault=Code.OK if answer.remote_verified else answer.code or Code.CHAIN_UNTRUSTED,
            detail=answer.detail,
            names=answer.remote_names,
            subject=answer.remote_subject,
            leaf_sha256=answer.remote_sha256,
        )
        judged = judgement.judge(sources, facts.from_shown(shown, self._context(session, sources)), _UNTOLD)
        if not judged.outcome:
            raise PoolError(judged.code, judged.detail)

    def begins(self, session: Session) -> None:
        """A session is about to relay: what it was let in for the first time with is pinned.

        Raises:
            PoolError: PIN_UNMATCHED, it was not the first; PINS_FULL, and a first use that is forgotten is none.
        """
        judged, shown = session.judgement, session.shown
        if judged is None or shown is None or not judged.pin:
            return
        fields: dict[str, Value] = {
            "session": session.session_id,
            "remote": judged.pin,
            "sha256": shown.leaf_sha256.hex(),
        }
        try:
            reason = f"first use, by session {session.session_id} of {session.caller.label}"
            session.records.pin_add(judged.pin, shown.leaf_sha256, "tlspool-broker", reason, session.plan.side)
        except PoolError as error:
            if error.code in (Code.PIN_UNMATCHED, Code.PINS_FULL):
                raise
            # The session was accepted all the same; the next one is another first use.
            self._out.note("error", "pin.not_stored", code=int(error.code), detail=error.detail, **fields)
            return
        self._out.note("info", "pin.stored", **fields)

    # --- what it is judged by -------------------------------------------------------------------------

    def consider(self, session: Session, done: HandshakeDone | None = None) -> Judgement:
        """Judge by what is known of a session; whatever keeps the databases from answering refuses."""
        try:
            sources = [*self._sources(session, session.plan)]
            if session.shown is not None and session.plan.remote_auth is not RemoteAuth.IGNORE:
                sources += self._of_anchor(session.records, session.plan.side, session.shown)
            found = self._facts(session, done, sources)
            if found.revoked:
                sources.append(_REVOKED)
            return judgement.judge(sources, found, {})
        except PoolError as error:
            if error.code is Code.INTERNAL:
                raise
            return Judgement(False, error.code, error.detail)

    def _facts(self, session: Session, done: HandshakeDone | None, sources: Iterable[Source]) -> Facts:
        context, shown = self._context(session, sources), session.shown
        if shown is None:
            if done is None:
                raise PoolError(Code.INTERNAL, f"session {session.session_id}: there is nothing to judge")
            return facts.from_done(done, context)
        found = facts.from_shown(_explained(session.records, session.plan.side, shown), context)
        if session.advice is not None:
            found = found.told(session.advice)
        found = found.with_revoked(revocation.revoked(found))
        return found if done is None else found.finished(done)

    def _context(self, session: Session, sources: Iterable[Source]) -> Context:
        plan, records = session.plan, session.records
        sides = 0
        asks_sides = any("S" in source.text or "C" in source.text for source in sources)
        if asks_sides and plan.localid is not None and plan.credentials:
            other = Side.SERVER if plan.side is Side.CLIENT else Side.CLIENT
            try:
                sides = plan.side | (other if records.credentials(plan.localid, other) else 0)
            except PoolError:
                sides = plan.side | other  # not known, so not proved
        return Context(
            side=plan.side,
            remote_auth=plan.remote_auth,
            now_s=int(self._unix_time_s()),
            expected=plan.expected,
            domain_represents_user=plan.domain_represents_user,
            service=session.request.service,
            local_sides=sides,
            staple_wanted=session.asks.wants_staple,
            stored=records,
        )

    def _of_anchor(self, records: Records, side: Side, shown: RemoteShown) -> list[Source]:
        """Return the expressions of the anchor that a chain ends at."""
        known = self._anchors_of(records).by_sha256.get(shown.anchor_sha256, ())
        ends = [anchor for anchor in known if anchor.for_sides & side]
        if not ends and (shown.fault == Code.OK or shown.anchor_sha256.strip(b"\0")):
            # A chain that is in order ends at one of them, and so under its expression.
            where = shown.anchor_sha256.hex()[:16] or "nowhere"
            return [Source(f"trust {where}, which is no anchor", NEVER, waives=False)]
        return [Source(f"trust {anchor.key.hex()[:16]}", anchor.valexp, waives=False) for anchor in ends]

    def _anchors_of(self, records: Records) -> _Anchors:
        found = self._anchors.get(records.trust_generation)
        if found is None:
            anchors = records.anchors()
            by_sha256: dict[bytes, list[Anchor]] = {}
            for anchor in anchors:
                by_sha256.setdefault(anchor.sha256, []).append(anchor)
            letters = {
                side: expression.needs(anchor.valexp for anchor in anchors if anchor.for_sides & side) for side in Side
            }
            while len(self._anchors) > 1:
                del self._anchors[min(self._anchors)]
            found = self._anchors[records.trust_generation] = _Anchors(by_sha256, letters)
        return found


def _news(shown: RemoteShown, done: HandshakeDone) -> bool:
    """Whether the end of a handshake tells something that was not known in the middle."""
    then = shown.tls_version, shown.cipher, shown.group
    return then != (done.tls_version, done.cipher, done.group)


def _explained(records: Records, side: Side, shown: RemoteShown) -> RemoteShown:
    """Return what is shown, with a better word for a chain that leads to an anchor whose expression is never true."""
    if shown.fault != Code.CHAIN_UNTRUSTED:
        return shown
    keys = {line.partition(" ")[0] for line in shown.links}
    for anchor in records.anchors():
        if anchor.valexp == NEVER and anchor.for_sides & side and anchor.key.hex() in keys:
            detail = f"the chain leads to trust {anchor.key.hex()[:16]}, whose expression is 0, never"
            return replace(shown, detail=detail)
    return shown
