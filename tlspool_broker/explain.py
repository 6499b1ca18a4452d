"""Why sessions were accepted or refused: the last of them, with everything that was weighed.

For operators only.  An application hears a code; what is in here may name identities, anchors and certificates of
others.  It is kept in memory, bounded, and gone when the broker ends: for evidence there is the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tlspool_broker import policy
from tlspool_broker.events import Caller
from tlspool_broker.radius_grant import Admission, Heard
from tlspool_broker.session import Session, State
from tlspool_broker.validation.facts import NOTHING_SHOWN, without_chain
from tlspool_broker.validation.judgement import Judgement, Line
from tlspool_common.appwire import Starttls
from tlspool_common.codec import BadFrame, decode_untrusted, encode
from tlspool_common.errors import TABLE, Code, PoolError
from tlspool_common.messages import BY_MESSAGE, Finding, RemoteShown

KEPT = 1000
"""Sessions that can be explained: with ten lines each some MiB."""

LISTED = 20
"""Sessions in a list, unless more are asked for."""

_FIELDS = {
    Code.CHAIN_UNTRUSTED: "issuer",
    Code.SELF_SIGNED: "issuer",
    Code.EXPIRED: "validity.notAfter",
    Code.NOT_YET_VALID: "validity.notBefore",
    Code.NAME_MISMATCH: "subjectAltName",
    Code.WRONG_PURPOSE: "extendedKeyUsage",
    Code.CHAIN_INVALID: "basicConstraints, keyUsage, nameConstraints or signature",
    Code.REVOKED: "serialNumber",
    Code.REVOCATION_UNKNOWN: "cRLDistributionPoints, authorityInfoAccess",
    Code.PIN_UNMATCHED: "the whole certificate",
    Code.KEY_WEAK: "subjectPublicKeyInfo, signatureAlgorithm",
}
"""What of a certificate to look at, in the words of RFC 5280."""


_WHEN = {
    State.EXPECT_CHOICE: "while its identity was being chosen",
    State.EXPECT_LOCALID: "when the application was asked for its identity",
    State.EXPECT_KEYD: "while it waited for the key daemon",
    State.EXPECT_WORKER: "while it waited for a worker",
    State.EXPECT_CLIENT_HELLO: "before the remote had said what it wants",
    State.EXPECT_HANDSHAKE: "in the handshake",
    State.EXPECT_ADVICE: "in the handshake, while others were asked about the certificate",
    State.EXPECT_ALERT: "in the handshake",
    State.EXPECT_RADIUS: "after the handshake, when RADIUS was asked",
    State.EXPECT_PLAINTEXT: "after the handshake",
}
"""When something has gone wrong, for people; a session that is refused has not come further than that."""

_TOLD = tuple(field.name for field in fields(RemoteShown) if field.name not in ("session_id", "chain"))
"""What can be said of a remote, by name."""

_WORDS = {state.name.lower(): f" {words}" for state, words in _WHEN.items()}


@dataclass(frozen=True, slots=True)
class Account:
    """What there is to say about one session, or about one that was refused before it was one (``session`` 0)."""

    session: int
    at_s: float
    caller: str
    uid: int
    service: str
    side: str
    localid: str
    wanted: str
    remoteid: str
    generation: int
    accepted: bool
    state: str
    code: Code
    detail: str
    rule: str
    judgement: Judgement | None
    missing: tuple[str, ...]
    shown: RemoteShown | None
    dry: bool = False
    resumed: bool = False
    access: Admission | None = None
    heard: tuple[Heard, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether anything but the chain and the name was weighed."""
        return self.judgement is not None

    @property
    def trace(self) -> tuple[Line, ...]:
        """What was weighed, put into words: few sessions are ever asked about."""
        return self.judgement.trace if self.judgement is not None else ()

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        who = f"session {self.session} of {self.caller}" if self.session else f"a request of {self.caller}"
        who = "such a session" if self.dry else who
        whom = " ".join(word for word in (self.side, self.localid) if word)
        was = "would be" if self.dry else "was"
        what = f"{who}{f' for {self.service}' if self.service else ''}{f' as {whom}' if whom else ''} {was}"
        by = f"by generation {self.generation}" if self.generation else "before the databases were asked"
        if self.accepted:
            remote = self.remoteid or "a remote that need not say who it is"
            why = "every expression holds" if self.judged else "its chain leads to a trust anchor and its name is right"
            if self.resumed:
                return f"{what} accepted {by} with {remote}, before the broker was started again"
            return f"{what} accepted {by} with {remote}" + (f": {why}" if self.remoteid else "") + self._radius_words()
        detail = f": {self.detail}" if self.detail else ""
        if self.dry and self.missing:
            return f"whether {what} accepted {by} cannot be told yet{detail}"
        when = "" if self.dry else _WORDS.get(self.state, "")
        return f"{what} refused {by}{when}: [{self.code.value}] {TABLE[self.code].happened}{detail}"

    def _radius_words(self) -> str:
        if self.access is None:
            return ""
        if not self.heard:
            return "; RADIUS servers account for it" if self.access.accounts else ""
        if not self.access.servers:
            return "; no RADIUS server has answered, and the rule lets it in all the same"
        return f"; RADIUS lets it in, by {' and '.join(self.access.servers)}"

    def _radius_json(self) -> dict[str, object] | None:
        access = self.access
        if access is None:
            return None
        return {
            "rule": access.rule or "the defaults",
            "acct_id": access.acct_id,
            "tags": list(access.tags),
            "servers": list(access.servers),
            "asked": [one.as_json() for one in self.heard],
        }

    def row(self) -> dict[str, object]:
        """Return a line of a list."""
        return {
            "session": self.session,
            "at_s": round(self.at_s, 3),
            "outcome": "accepted" if self.accepted else "undecided" if self.missing else "refused",
            "code": int(self.code),
            "caller": self.caller,
            "service": self.service,
            "localid": self.localid,
            "remoteid": self.remoteid or self.wanted,
            "rule": self.rule,
            "sentence": self.sentence,
        }

    def as_json(self) -> dict[str, object]:
        """Return everything."""
        return {
            **self.row(),
            "remoteid": self.remoteid,
            "wanted": self.wanted,
            "uid": self.uid,
            "side": self.side,
            "generation": self.generation,
            "state": self.state,
            "what": TABLE[self.code].happened if self.code is not Code.OK else "",
            "remedy": TABLE[self.code].remedy if self.code is not Code.OK else "",
            "detail": self.detail,
            "field": _FIELDS.get(self.code, ""),
            "judged": self.judged,
            "missing": "".join(self.missing),
            "trace": [line.as_json() for line in self.trace],
            "radius": self._radius_json(),
            "remote": None if self.shown is None else shown_json(self.shown),
        }


class Explain:
    """The last accounts."""

    def __init__(self, unix_time_s: Callable[[], float]) -> None:
        self._unix_time_s = unix_time_s
        self._accounts: deque[Account] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._accounts)

    def accepted(self, session: Session) -> None:
        """A session begins to relay."""
        self._accounts.append(account(session, self._unix_time_s()))

    def refused(self, session: Session, error: PoolError) -> None:
        """A session has failed, for whatever reason."""
        self._accounts.append(account(session, self._unix_time_s(), error))

    def turned_away(self, caller: Caller, request: Starttls, generation: int, error: PoolError) -> None:
        """A STARTTLS has not become a session; generation 0: the databases had no part in that."""
        sides = policy.sides_of(request.flags)
        self._accounts.append(
            Account(
                session=0,
                at_s=self._unix_time_s(),
                caller=caller.label,
                uid=caller.uid,
                service=request.service,
                side=sides[0].name.lower() if sides else "",
                localid=request.localid,
                wanted=request.remoteid,
                remoteid="",
                generation=generation,
                accepted=False,
                state="starttls",
                code=error.code,
                detail=error.detail,
                rule=error.code.name.lower(),
                judgement=None,
                missing=(),
                shown=None,
            )
        )

    def listed(self, count: int = LISTED) -> list[dict[str, object]]:
        """Return the last ones, the newest first."""
        return [one.row() for one, _ in zip(reversed(self._accounts), range(count), strict=False)]

    def get(self, session: int | None) -> Account:
        """Return the account of a session; None: the last one.

        Raises:
            PoolError: SESSION_UNKNOWN.
        """
        for one in reversed(self._accounts):
            if session is None or one.session == session:
                return one
        which = "none yet" if session is None else f"{session}, of the last {len(self._accounts)}"
        raise PoolError(Code.SESSION_UNKNOWN, which)


def account(session: Session, at_s: float, error: PoolError | None = None, *, dry: bool = False) -> Account:
    """Return what there is to say about a session."""
    judged = session.judgement
    code = Code.OK if error is None else error.code
    return Account(
        session=int(session.session_id),
        at_s=at_s,
        caller=session.caller.label,
        uid=session.caller.uid,
        service=session.request.service,
        side=session.plan.side.name.lower(),
        localid=str(session.plan.localid or ""),
        wanted=str(session.plan.expected or ""),
        remoteid=session.remoteid if error is None else "",
        generation=session.generation,
        accepted=error is None,
        state=session.state.name.lower(),
        code=code,
        detail="" if error is None else error.detail,
        rule=_rule(judged, code),
        judgement=judged,
        missing=judged.missing if judged is not None and code is Code.VALIDATION_UNDECIDED else (),
        shown=None if session.shown is None else without_chain(session.shown),
        dry=dry,
        resumed=session.resumed,
        access=session.access,
        heard=session.heard,
    )


def _rule(judged: Judgement | None, code: Code) -> str:
    if code is Code.OK:
        return ""
    if judged is not None and judged.outcome is not True and judged.code is code:
        return judged.rule
    return code.name.lower()


def shown_json(shown: RemoteShown) -> dict[str, object]:
    """Return what a remote has shown as programs read it: octets in hexadecimal, findings by name."""
    found: dict[str, object] = {}
    for name in _TOLD:
        value = getattr(shown, name)
        if isinstance(value, bytes):
            found[name] = value.hex()
        elif isinstance(value, Finding):
            found[name] = value.name.lower()
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def shown_untrusted(given: Mapping[str, object]) -> RemoteShown:
    """Read what ``shown_json`` writes; what is left out is as if the certificate did not have it.

    Raises:
        PoolError: FIELD_MALFORMED.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _TOLD:
            raise PoolError(Code.FIELD_MALFORMED, f"remote has no {name[:60]!r}; there are {', '.join(_TOLD)}")
        values[name] = _value_untrusted(name, value, getattr(NOTHING_SHOWN, name))
    message = replace(NOTHING_SHOWN, **values)
    try:  # the border's own bounds
        return decode_untrusted(RemoteShown, encode(BY_MESSAGE[RemoteShown].code, 0, message))
    except BadFrame as error:
        raise PoolError(Code.FIELD_MALFORMED, f"remote: {error}") from None


def _value_untrusted(name: str, value: object, like: object) -> object:
    try:
        if isinstance(like, Finding) and isinstance(value, str):
            return Finding[value.upper()]
        if isinstance(like, bytes) and isinstance(value, str):
            return bytes.fromhex(value)
        if isinstance(like, tuple) and isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
    except (KeyError, ValueError):
        pass
    else:
        if isinstance(like, bool | str) and type(value) is type(like):
            return value
        if type(like) is int and type(value) is int and 0 <= value < 1 << 64:
            return value
    kind = "words" if isinstance(like, tuple) else type(like).__name__
    raise PoolError(Code.FIELD_MALFORMED, f"remote.{name}: {str(value)[:60]!r} is no {kind}")
