"""What the broker answers operators about RADIUS; control.py has the other commands.

    radius                  servers as the helper sees them, and how much waits to be accounted for
    radius.spool            the records that wait: after, count; retry: send what waits now, to dead servers too
    radius.test             ask about a remote what a session of its would be asked; for programs

A password in radius.test goes to the server and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tlspool_broker import radius_policy
from tlspool_broker.admin.fields import asker, author, bad, boolean, number_of, text
from tlspool_broker.core import BrokerCore
from tlspool_broker.radius_questions import RadiusQuestions
from tlspool_broker.radius_rehearsal import rehearse_untrusted
from tlspool_common import limits
from tlspool_common.control import Answer, Request
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.logwords import words_untrusted
from tlspool_common.messages import Access, AccessTold, AskAccess, AskRadius, Purpose, RadiusTold
from tlspool_common.settings import Settings

PURPOSES = {"authn": Purpose.AUTHENTICATE, "authz": Purpose.AUTHORIZE}

_TEXTS = {"server", "acct_id", "user", "user_name", "status", "detail", "state", "purpose"}
"""Words of lines that are never numbers, whatever they look like."""

_OTHERS = ("dynamic", "spool")
"""What has a line among those of servers, and is none: requests of RFC 5176, and a spool that cannot be used."""

_WORST = (Access.REJECTED, Access.UNASKED, Access.UNANSWERED, Access.ACCEPTED)


class RadiusControl:
    """The commands."""

    def __init__(self, core: BrokerCore, settings: Settings, questions: RadiusQuestions, log: Log) -> None:
        self._core = core
        self._settings = settings
        self._questions = questions
        self._log = log
        self.commands: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "radius": self.status,
            "radius.spool": self.spool,
            "radius.test": self.test,
        }

    async def status(self, _request: Request) -> Answer:
        """How servers and helper are.

        Raises:
            PoolError: RADIUS_UNUSED.
        """
        return await self._told(AskRadius(after=0, count=0, retry=False))

    async def spool(self, request: Request) -> Answer:
        """Which records wait.

        Raises:
            PoolError: RADIUS_UNUSED, FIELD_MALFORMED.
        """
        count = number_of(request, "count", default=limits.RADIUS_LISTED)
        if count > limits.RADIUS_LISTED:
            raise bad(f"count must be at most {limits.RADIUS_LISTED}; `after` goes on behind them")
        retry = boolean(request, "retry")
        if retry:
            self._log.info("radius.retry", uid=asker(request), author=author(request))
        return await self._told(AskRadius(after=number_of(request, "after", default=0), count=count, retry=retry))

    async def _told(self, question: AskRadius) -> Answer:
        helper = self._core.radius.describe()
        if helper["state"] == "not used":
            raise PoolError(Code.RADIUS_UNUSED, "no radius_authn, radius_authz, radius_acct or radius_dynamic is set")
        told = await self._questions.ask(question)
        if not isinstance(told, RadiusTold):
            why = f"the helper does not answer; it is {helper['state']}: look for helper. in the broker's log"
            return {"helper": helper, "warnings": [why]}
        rows = [_row_untrusted(line) for line in told.servers]
        others = {str(row.get("purpose")): row for row in rows if row.get("purpose") in _OTHERS}
        return {
            "helper": self._core.radius.describe(),
            "waiting": told.waiting,
            "oldest_s": told.oldest_s,
            "open": told.open,
            "sent": told.sent,
            "refused": told.refused,
            "servers": [row for row in rows if row.get("purpose") not in _OTHERS],
            **others,
            "records": [_row_untrusted(line) for line in told.records],
        }

    async def test(self, request: Request) -> Answer:
        """Ask about a remote.

        Raises:
            PoolError: FIELD_MALFORMED, IDENTITY_MALFORMED; RADIUS_UNUSED, RADIUS_UNASKED, RADIUS_ANONYMOUS.
        """
        wanted = text(request, "purpose", None, "both")
        if wanted not in (*PURPOSES, "both"):
            raise bad(f"purpose must be {', '.join(PURPOSES)} or both")
        password = text(request, "password").encode() if request.get("password") else b""
        if len(password) > limits.RADIUS_PASSWORD_B:
            raise bad(f"password must have at most {limits.RADIUS_PASSWORD_B} bytes")
        admission = rehearse_untrusted(self._core, request)
        names = [name for name, purpose in PURPOSES.items() if self._core.radius.serves(purpose)]
        served = [name for name in names if wanted in (name, "both")]
        if admission is None or not served:
            missing = "radius_authn or radius_authz" if wanted == "both" else f"radius_{wanted}"
            raise PoolError(Code.RADIUS_UNUSED, f"{missing} names no server, or the rule asks none")
        asked = {"authn": admission.authn, "authz": admission.authz}
        answers: list[Answer] = []
        worst = Access.ACCEPTED
        for name in served:
            question = AskAccess(
                purpose=PURPOSES[name],
                attributes=radius_policy.question(admission, PURPOSES[name]),
                state=b"",
                deadline_ms=int(self._settings.radius_wait_s * 1000),
                password=password if name == "authn" else b"",
            )
            told = await self._questions.ask(question)
            row, access = _answer(told if isinstance(told, AccessTold) else None)
            # The password itself is no part of what is shown.
            sent = [*question.attributes, *(["User-Password=(hidden)"] if question.password else [])]
            answers.append({"purpose": name, "asked_of_sessions": asked[name], "sent": sent, **row})
            worst = min(worst, access, key=_WORST.index)
        self._log.info(
            "radius.test",
            remoteid=str(request.get("remoteid") or ""),
            outcome=worst.name.lower(),
            uid=asker(request),
            author=author(request),
        )
        return {"outcome": worst.name.lower(), "rule": admission.rule, "answers": answers}


def _answer(told: AccessTold | None) -> tuple[Answer, Access]:
    if told is None:
        return {"access": "unanswered", "detail": "the helper does not answer"}, Access.UNANSWERED
    row: Answer = {"access": told.access.name.lower(), "server": told.server, "ms": told.elapsed_ms}
    if told.detail:
        row["detail"] = told.detail
    got = {
        "Reply-Message": told.message,
        "User-Name": told.user_name,
        "Class": [one.hex() for one in told.classes],
        "tags": list(told.tags),
        "State": told.state.hex(),
        "Session-Timeout": told.session_timeout_s,
        "Idle-Timeout": told.idle_timeout_s,
        "Acct-Interim-Interval": told.interim_s,
        "Termination-Action": "RADIUS-Request" if told.terminate else "",
    }
    row["got"] = {name: value for name, value in got.items() if value}
    return row, told.access


def _row_untrusted(line: str) -> Mapping[str, object]:
    """Return a line of the helper as an object; one that is none is shown as it is."""
    try:
        words = words_untrusted(line)
    except ValueError:
        return {"line": line}
    return {
        name: value if name in _TEXTS or str(_number(value)) != value else int(value) for name, value in words.items()
    }


def _number(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else -1
