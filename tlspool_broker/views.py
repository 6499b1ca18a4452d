"""What an operator sees of sessions, workers, callers, grants and loads, and how sessions are picked out.

    sessions [WORD=VALUE]... [limit=N] [after=SESSION]     WORD: caller uid local remote state service side worker
    session ID                                             everything about one
    kill ID, or kill WORD=VALUE..., or kill all

Every answer is bounded: a list of sessions stops at its limit, says how many more there are, and where to go on.
Whoever asks for 20 000 sessions, or ends them, gets them in portions, between which others have their turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

from tlspool_broker.admin.fields import bad
from tlspool_broker.core import BrokerCore
from tlspool_broker.events import Event, KillAsked, SessionId
from tlspool_broker.loads import Loads
from tlspool_broker.policy import is_peer
from tlspool_broker.session import Session, State
from tlspool_common import grants
from tlspool_common.control import Answer, Request
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth

LIMIT = 1000
"""Sessions in one answer to a program, unless it asks for another number; some 300 KiB, written in 10 ms."""

LIMIT_PEOPLE = 50
"""Sessions in one answer to bare words: a screen."""

MOST = 2000
"""As many as anybody may ask for at once, as an answer is written in one go.  For more there is ``after``."""

AT_ONCE = 500
"""Sessions looked at, or ended, before others have their turn: some milliseconds."""

CALLERS = 200
"""Callers in an answer, the busiest first."""

_STATE = attrgetter("state")
_STATES = tuple(state.name.lower() for state in State)
_SETTLED = (State.RELAYING, State.EXPECT_END, State.OVER)

WORDS = ("caller", "uid", "local", "remote", "state", "service", "side", "worker")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sessions are meant; what is '' does not matter."""

    caller: str = ""
    uid: str = ""
    local: str = ""
    remote: str = ""
    state: str = ""
    service: str = ""
    side: str = ""
    worker: str = ""

    def __bool__(self) -> bool:
        return any(getattr(self, word) for word in WORDS)

    def __str__(self) -> str:
        return " ".join(f"{word}={getattr(self, word)}" for word in WORDS if getattr(self, word)) or "all"

    def takes(self, session: Session) -> bool:
        """Whether a session is one of those meant."""
        return (
            (not self.state or self.state == session.state.name.lower())
            and (not self.uid or self.uid == str(session.caller.uid))
            and (not self.worker or (session.worker is not None and self.worker == str(session.worker.worker_id)))
            and (not self.service or self.service == session.request.service)
            and (not self.side or self.side == session.plan.side.name.lower())
            and (not self.caller or _is_caller(session, self.caller))
            and (not self.local or _is_named(session.localid or str(session.plan.localid or ""), self.local))
            and (not self.remote or _is_named(session.remoteid or str(session.plan.expected or ""), self.remote))
        )


def _is_caller(session: Session, text: str) -> bool:
    """Whether it is called so: ``postfix.service[815]``, ``postfix.service``, ``postfix``, its program, its number."""
    caller = session.caller
    unit = caller.unit.rpartition(".")[0]
    return text in (caller.label, caller.unit, unit, caller.command, caller.exe, str(caller.pid))


def _is_named(identity: str, text: str) -> bool:
    """Whether an identity is meant: by itself, by ``@domain`` its users, by ``.domain`` whatever is below."""
    identity, text = identity.lower(), text.lower()
    return identity == text or (text[0] in "@." and identity.endswith(text))


def filter_untrusted(request: Request, known: tuple[str, ...] = ()) -> tuple[Filter, dict[str, str]]:
    """Read a filter, from fields or from words; return it, and the other words that are ``known``.

    Raises:
        PoolError: FIELD_MALFORMED.
    """
    found: dict[str, str] = {}
    for word in (*WORDS, *known):
        value = request.get(word)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            found[word] = str(value)
        elif value is not None:
            raise bad(f"{word} must be text or a number")
    args = request.get("args")
    for arg in args if isinstance(args, list) else ():
        word, equals, value = str(arg).partition("=")
        if not equals or word not in (*WORDS, *known):
            raise bad(f"{str(arg)[:100]!r} is no WORD=VALUE; known are {', '.join((*WORDS, *known))}")
        found[word] = value
    for word, value in found.items():
        if not value or len(value) > 1000:
            raise bad(f"{word} must have 1 to 1000 characters")
    if "state" in found:
        state = found["state"] = found["state"].lower()
        if state not in _STATES:
            raise bad(f"state {state[:100]!r} is none of {', '.join(_STATES)}")
    return Filter(**{word: found[word] for word in WORDS if word in found}), found


def number_untrusted(text: str, remedy: str) -> int:
    """Read a number.

    Raises:
        PoolError: FIELD_MALFORMED.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise PoolError(Code.FIELD_MALFORMED, remedy)
    return int(text)


class Views:
    """The commands that look at sessions, and end them."""

    def __init__(self, core: BrokerCore, happened: Callable[[Event], None], loads: Loads) -> None:
        self._core = core
        self._happened = happened
        self._loads = loads

    # --- sessions -------------------------------------------------------------------------------------

    async def sessions(self, request: Request) -> Answer:
        """List sessions, in the order of their numbers."""
        picked, words = filter_untrusted(request, ("limit", "after"))
        limit = LIMIT_PEOPLE if "args" in request else LIMIT
        limit = number_untrusted(words.get("limit", str(limit)), "limit must be a number")
        after = number_untrusted(words.get("after", "0"), "after must be the number of a session")
        if not 0 <= limit <= MOST:
            raise bad(f"limit must be at most {MOST}; ask again with after= for the rest")
        now_ms = grants.now_ms()
        rows: list[dict[str, object]] = []
        matching = 0
        for portion in self._portions():
            for session in portion:
                if session.session_id > after and picked.takes(session):
                    matching += 1
                    if len(rows) < limit:
                        rows.append(session.row(now_ms))
            await asyncio.sleep(0)
        answer: Answer = {"sessions": rows, "total": len(self._core.sessions), "more": matching - len(rows)}
        return {**answer, "next": rows[-1]["session"]} if rows and matching > len(rows) else answer

    def _portions(self) -> Iterator[list[Session]]:
        everything = iter(self._core.sessions)
        while portion := list(islice(everything, AT_ONCE)):
            yield portion

    def session(self, request: Request) -> Answer:
        """Tell everything about one session."""
        args = request.get("args")
        value = request.get("session", args[0] if isinstance(args, list) and args else None)
        number = number_untrusted(str(value), "name a session by its number: session 17")
        session = self._core.sessions.get(SessionId(number))
        if session is None:
            raise PoolError(Code.SESSION_UNKNOWN, f"{number}; tlspool explain {number} may know what became of it")
        return describe(session, grants.now_ms())

    async def kill_matching(self, request: Request) -> tuple[Filter, int]:
        """End the sessions that are meant now; return who was meant, and how many there were.

        Raises:
            PoolError: FIELD_MALFORMED, nobody in particular is meant.
        """
        args = request.get("args")
        everybody = request.get("all") is True or args == ["all"]
        picked, _ = filter_untrusted({**request, "args": []} if everybody else request)
        if everybody == bool(picked):
            raise bad("name a session by its number: kill 17; or some by WORD=VALUE; or all")
        count = 0
        for portion in self._portions():
            for session in portion:
                if session.state is not State.OVER and picked.takes(session):
                    count += 1
                    self._happened(KillAsked(session.session_id))
            await asyncio.sleep(0)
        return picked, count

    # --- others ---------------------------------------------------------------------------------------

    async def callers(self, _request: Request) -> Answer:
        """List callers, those with most sessions first: what they have now, and what they asked for so far."""
        now: Counter[tuple[int, str]] = Counter()
        setting_up: Counter[tuple[int, str]] = Counter()
        for portion in self._portions():
            for session in portion:
                caller = session.caller
                key = caller.uid, caller.unit or caller.command or "unknown"
                now[key] += 1
                setting_up[key] += session.being_set_up
            await asyncio.sleep(0)
        known = self._loads.callers
        keys = sorted({*now, *known}, key=lambda key: (-now[key], -known[key].requests if key in known else 0, key))
        rows: list[dict[str, object]] = []
        for key in keys[:CALLERS]:
            row: dict[str, object] = {"uid": key[0], "caller": key[1], "sessions": now[key]}
            row["being_set_up"] = setting_up[key]
            if (tally := known.get(key)) is not None:
                names = ("requests", "established", "refused", "failed", "commands_refused", "ended")
                row |= {name: getattr(tally, name) for name in (*names, "from_remote_b", "to_remote_b", "last_code")}
            rows.append(row)
        return {"callers": rows, "more": max(0, len(keys) - CALLERS)}

    def grants(self, _request: Request) -> Answer:
        """Say how many grants were made for signatures; what became of them keyd knows."""
        keyd = self._core.keyd
        return {"keyd": keyd.present, "issued": sum(keyd.issued.values()), "by_role": dict(sorted(keyd.issued.items()))}

    def loads(self, _request: Request) -> Answer:
        """Tell rates, delays, and what waits."""
        core = self._core
        counts = states(core)
        return {
            **self._loads.describe(),
            "in_flight": in_flight(counts),
            "states": {state.name.lower(): number for state, number in counts.items()},
            "sessions": len(core.sessions),
            "connections": len(core.connections),
            "queues": {
                "for_keyd": counts[State.EXPECT_KEYD],
                "for_worker": counts[State.EXPECT_WORKER],
                "for_helper": counts[State.EXPECT_ADVICE],
                "for_radius": counts[State.EXPECT_RADIUS],
            },
            "grants_issued": core.keyd.issued.total(),
        }


def states(core: BrokerCore) -> Counter[State]:
    """Count the sessions in each state; a millisecond for 20 000."""
    return Counter(map(_STATE, core.sessions))


def in_flight(counts: Counter[State]) -> int:
    """Return how many of these are being set up."""
    return counts.total() - sum(counts[state] for state in _SETTLED)


def describe(session: Session, now_ms: int) -> Answer:
    """Return everything about a session that an operator may know: no key, no plaintext."""
    caller, facts, worker = session.caller, session.facts, session.worker
    who: dict[str, object] = {
        "label": caller.label,
        "pid": caller.pid,
        "uid": caller.uid,
        "gid": caller.gid,
        "unit": caller.unit,
        "command": caller.command,
        "exe": caller.exe,
        "certain": caller.certain,
        "socket": caller.socket,
    }
    answer: Answer = {
        **session.row(now_ms),
        "who": who,
        "expected": str(session.plan.expected or ""),
        "remote_auth": session.plan.remote_auth.name.lower(),
        "verified": session.verified,
        "verified_how": _how(session),
        "peer": is_peer(session.request.flags),
        "sni": facts.sni if facts else session.hello_sni or session.plan.sni,
        "alpn": facts.alpn.decode("ascii", "replace") if facts else "",
        "subject": facts.remote_subject if facts else "",
        "certificate_sha256": facts.remote_sha256.hex() if facts else "",
        "names": list(facts.remote_names) if facts else [],
        **(dict(session.meter.describe(session.access, now_ms)) if session.meter and session.access else {}),
        "generation": session.generation,
        "policy": session.terms.crypto.name if session.terms else "",
        "remote_address": session.remote_address,
        "radius": _radius(session),
        "worker_pid": worker.pid if worker else None,
        "controlled": session.controller is not None,
        "forks": session.forks,
        "established_s": round((now_ms - session.established_ms) / 1000, 1) if session.established_ms else None,
        "deadline_s": _deadline_s(session, now_ms),
        "explain": f"tlspool explain {int(session.session_id)}",
    }
    return answer


def _radius(session: Session) -> dict[str, object] | None:
    """Return what RADIUS servers have granted; None: they have nothing to do with it."""
    access = session.access
    if access is None:
        return None
    return {
        "rule": access.rule or "the defaults",
        "servers": list(access.servers),
        "acct_id": access.acct_id,
        "accounted": session.accounted,
        "attributes": list(access.attributes),
        "classes": len(access.classes),
        "session_timeout_s": access.session_timeout_s,
        "idle_timeout_s": access.idle_timeout_s,
        "interim_s": access.interim_s,
        "asked_again": bool(access.terminate),
    }


def _deadline_s(session: Session, now_ms: int) -> float | None:
    if session.deadline_ms is None or not session.being_set_up:
        return None
    return round((session.deadline_ms - now_ms) / 1000, 1)


def _how(session: Session) -> str:
    """Say by what the remote is believed to be who it is."""
    if session.facts is None:
        return ""
    if session.plan.remote_auth is RemoteAuth.IGNORE:
        return "nobody asked"
    if not session.verified:
        return "it did not prove who it is"
    return "validation expressions" if session.asks.asks else "chain, dates, purpose and name"
