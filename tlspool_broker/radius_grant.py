"""What RADIUS has granted a session: all that accounting, timeouts and dynamic authorisation go by."""

from __future__ import annotations

from dataclasses import dataclass, field

from tlspool_common.messages import Access, Purpose
from tlspool_common.record import record


@record
class Admission:
    """A session that RADIUS has to do with, once it is let in.  It is replaced as a whole, never changed.

    Attributes:
        rule: name of the radius rule that applied; '' where there is none, and the defaults hold.
        acct_id: Acct-Session-Id, of questions and of accounting; never used twice.
        attributes: ``Name=value``, as rule and session make them; questions and accounting records have them.
        accounts: whether there are accounting records of it.
        accepts_unkept: it goes on where no record can be kept (``unanswered=accept``).
        classes, tags: Class and Filter-Id attributes of the answers.
        state: State of the answer about authorisation, or of the only one.
        session_timeout_s, idle_timeout_s, interim_s: 0: none, and for the last ``radius_interim_s``.
        terminate: 1: when ``session_timeout_s`` is over it is asked about again, with ``state``.
        servers: ADDRESS:PORT of who has let it in; none when nobody was asked, or nobody has answered.
        authn, authz: which questions were asked, and so are asked again.
    """

    rule: str
    acct_id: str
    attributes: tuple[str, ...]
    accounts: bool
    accepts_unkept: bool = False
    classes: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()
    state: bytes = b""
    session_timeout_s: int = 0
    idle_timeout_s: int = 0
    interim_s: int = 0
    terminate: int = 0
    servers: tuple[str, ...] = ()
    authn: bool = False
    authz: bool = False


@record
class Heard:
    """What has become of one question, for who wants to know why; texts are printable."""

    purpose: Purpose
    access: Access
    server: str
    detail: str
    message: str
    ms: int

    def as_json(self) -> dict[str, object]:
        """Return it as the operator's socket shows it."""
        return {
            "purpose": self.purpose.name.lower(),
            "access": self.access.name.lower(),
            "server": self.server,
            "detail": self.detail,
            "message": self.message,
            "ms": self.ms,
        }


@dataclass(slots=True)
class Pending:
    """What a session waits for: the answers to these ``questions`` (by number), or that accounting has begun."""

    questions: dict[Purpose, int] = field(default_factory=dict)
    starts: bool = False
