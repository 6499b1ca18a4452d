"""STARTTLS_LOCALID: the application's say in who we are, for sessions with the flag LOCALID_CHECK.

Theory of operation.  Identities are proposed one after the other, and the answer to each leads on:

    server, localid given    that one, if the client did not ask for another name
    server, localid empty    the name that the client asked for (SNI); the setting ``default_localid``, which may be
                             '', when it asked for none
    client, localid given    that one, if it may be disclosed to the remote
    client, localid empty    what may be disclosed, in order.  If that is nothing, nothing is asked

    answer                              means
    with a descriptor                   accepted, whatever it says; the descriptor is for the plaintext, and is
                                        not asked for again.  (Only '' cannot be accepted: then it says who.)
    the same identity                   accepted
    another identity                    this one instead.  It must be ours, a client's must be one that may be
                                        disclosed, and a server's answers for the name that the client asked for:
                                        the application's word makes it a virtual host, unless ``sni_rule strict``
    no identity                         refused: the next proposal, if there is one
    ERROR, or any other command         refused, and the session fails

An identity that is accepted and cannot be used any more counts as refused by ourselves: the next is proposed.
A descriptor that came with it is kept until another one comes; the last one counts.

A client may answer with a selector for ``remoteid``.  It must match the request's; whom the remote must prove to
be stays what the request said, as an answer must not make a handshake weaker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tlspool_broker import policy
from tlspool_broker.access import Access
from tlspool_broker.connections import Connections
from tlspool_broker.events import DropFd, PassedFd
from tlspool_broker.out import Out
from tlspool_broker.session import Happening, Session, State
from tlspool_common.appwire import BadPayload, Cmd, Frame, Starttls, text_untrusted
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, matches, parse_selector_untrusted, parse_untrusted
from tlspool_common.messages import Side
from tlspool_common.settings import Settings

_PASSED_OVER = frozenset({Code.LOCALID_UNKNOWN, Code.RECORD_MALFORMED})
"""What may have become of an identity since it was found fit to be proposed."""


class Proposals:
    """What is proposed, and what becomes of the answers.  ``fail`` and ``go_on`` are what leads out of here."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        access: Access,
        connections: Connections,
        fail: Callable[[Session, PoolError], None],
        go_on: Callable[[Session], None],
    ) -> None:
        self._out = out
        self._settings = settings
        self._access = access
        self._connections = connections
        self._fail = fail
        self._go_on = go_on

    def hello(self, session: Session, sni: str) -> None:
        """Take the name that a server's client asks for, or its silence; the application may still have its say.

        Raises:
            PoolError: as ``policy.identity_for``.
        """
        session.serve()
        session.hello_sni = sni
        if session.plan.localid is not None or not session.asks_localid:
            allowed = self._access.for_session(session.caller, session.request.service)
            session.plan = policy.identity_for(session.plan, sni, self._settings, session.records, allowed)

    def begin(self, session: Session) -> None:
        """Propose the first identity of a session that expects the application's word."""
        session.proposals = session.plan.candidates
        if session.plan.side is Side.SERVER and not session.proposals:
            try:
                name = session.hello_sni or self._settings.default_localid
                session.proposals = (str(parse_untrusted(name)) if name else "",)
            except PoolError as error:
                self._fail(session, PoolError(Code.SNI_MISMATCH, error.detail))
                return
        self._ask(session)

    def _ask(self, session: Session) -> None:
        if session.exchange is None:
            return
        proposed = session.proposals[0]
        self._note(session, "localid.proposed", proposed)
        payload = session.request.with_identities(proposed, session.request.remoteid).to_payload()
        self._connections.call_back(session.exchange, Cmd.STARTTLS_LOCALID, payload)

    def answered(self, session: Session, frame: Frame, passed: PassedFd | None) -> None:
        """Take the answer to a proposal."""
        if frame.cmd != Cmd.STARTTLS_LOCALID:
            self._drop(passed)
            self._fail(session, PoolError(Code.LOCALID_REFUSED, f"command {frame.cmd:#x}"))
            return
        proposed = session.proposals[0]
        if passed is not None:
            self._keep(session, passed)
        try:
            if passed is not None:
                policy.check_plaintext(passed)
            localid, remoteid = _identities_untrusted(frame.payload)
            if session.plan.side is Side.CLIENT:
                _check_general(session.request.remoteid, remoteid)
            if passed is not None and proposed:
                localid = proposed
            if not localid:
                self._refused(session, PoolError(Code.LOCALID_REFUSED, proposed or "no server name"))
            else:
                self._chosen(session, parse_untrusted(localid), proposed)
        except BadPayload as error:
            self._fail(session, PoolError(Code.FIELD_MALFORMED, str(error)))
        except PoolError as error:
            self._fail(session, error)

    def _chosen(self, session: Session, localid: Donai, proposed: str) -> None:
        """Be this, from here on.

        Raises:
            PoolError: it cannot be; IDENTITY_MALFORMED, ACCESS_DENIED, LOCALID_UNKNOWN, LOCALID_NOT_DISCLOSED,
                SNI_MISMATCH, or what the databases raise.
        """
        plan = session.plan
        changed = str(localid) != proposed
        if changed and plan.side is Side.CLIENT:
            policy.check_disclosed(localid, plan.expected, session.records)
        if changed and plan.side is Side.SERVER and self._settings.sni_rule == "strict":
            policy.judge_hello(replace(plan, localid=localid), session.hello_sni)
        try:
            allowed = self._access.for_session(session.caller, session.request.service)
            credentials = policy.identify(plan.side, localid, session.records, allowed)
        except PoolError as error:
            if changed or error.code not in _PASSED_OVER:
                raise
            self._refused(session, error)
            return
        session.plan = replace(
            plan, localid=localid, credentials=tuple(credentials), answers_to=session.hello_sni, candidates=()
        )
        session.proposals = ()
        if changed:
            session.stored = None  # what somebody chose is not what is shown
        self._note(session, "localid.chosen", str(localid))
        self._go_on(session)

    def _refused(self, session: Session, error: PoolError) -> None:
        """Propose the next identity, or give up for this reason."""
        if len(session.proposals) < 2:
            self._fail(session, error)
            return
        self._note(session, "localid.refused", session.proposals[0])
        session.proposals = session.proposals[1:]
        session.move(Happening.LOCALID_REFUSED, State.EXPECT_LOCALID)
        self._ask(session)

    def _keep(self, session: Session, passed: PassedFd) -> None:
        if session.plain is not None:
            self._out(DropFd(session.plain))
        session.plain = passed.fd

    def _drop(self, passed: PassedFd | None) -> None:
        if passed is not None:
            self._out(DropFd(passed.fd))

    def _note(self, session: Session, event: str, localid: str) -> None:
        self._out.note("debug", event, session=session.session_id, localid=localid, sni=session.hello_sni)


def _identities_untrusted(payload: bytes) -> tuple[str, str]:
    """Return localid and remoteid of an answer; the rest of it counts for nothing.

    Raises:
        BadPayload: one of them is malformed.
    """
    _, _, _, _, localid, remoteid, *_ = Starttls.FORM.unpack_from(payload)
    return text_untrusted("localid", localid), text_untrusted("remoteid", remoteid)


def _check_general(asked: str, answered: str) -> None:
    """Accept the remote identity in a client's answer; an empty one says nothing.

    Raises:
        PoolError: IDENTITY_MALFORMED, REMOTEID_NOT_GENERAL.
    """
    if answered and answered != asked:
        selector = parse_selector_untrusted(answered)
        if not asked or not matches(parse_untrusted(asked), str(selector)):
            raise PoolError(Code.REMOTEID_NOT_GENERAL, f"{answered} for {asked}")
