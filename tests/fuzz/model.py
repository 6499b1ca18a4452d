"""What the broker must say, told a second time and as simply as it can be: sections 4, 7.3 to 7.5, 10 and 12.1.

Every move of the world is a method that returns the frames that must be sent for it, in order: (application, request
id, what), where ``what`` is a stable code of an error, or the name of a command.  Callback ids are learned from the
frames themselves.  keyd and a worker are always there, and always do at once what they are told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tlspool_common.errors import Code

Said = tuple[int, int, str | Code]


class Stage(Enum):
    """How far a session is."""

    HELLO = auto()
    PROPOSED = auto()
    HANDSHAKE = auto()
    ALERT = auto()
    PLAINTEXT = auto()
    RELAYING = auto()


@dataclass(eq=False)
class Session:
    """A session, from its request to its end."""

    app: int
    reqid: int | None
    key: int
    server: bool
    check: bool
    fork: bool
    detach: bool
    stage: Stage
    judged: bool | None = None  # whether the expression of its day accepts the remote; None: there was none
    shown: bool = False  # the remote has shown what it has
    given: bool = False  # the plaintext descriptor came with the answer to a proposal
    cbid: int | None = None
    controller: int | None = None

    @property
    def waits(self) -> bool:
        """Whether it waits for the application."""
        return self.stage in (Stage.PROPOSED, Stage.PLAINTEXT)


@dataclass
class App:
    """What is remembered of a connection: callbacks that were open when their exchange ended."""

    late: dict[int, tuple[int | None, Code]] = field(default_factory=dict)


class Model:
    """The broker, as an application sees it."""

    def __init__(self) -> None:
        self.apps: dict[int, App] = {}
        self.sessions: list[Session] = []

    # --- who has what ---------------------------------------------------------------------------------

    def _by_reqid(self, app: int, reqid: int) -> Session | None:
        found = [one for one in self.sessions if (one.app, one.reqid) == (app, reqid) and self._set_up(one)]
        return found[0] if found else None

    def _by_cbid(self, app: int, cbid: int) -> Session | None:
        found = [one for one in self.sessions if one.app == app and one.cbid == cbid and cbid]
        return found[0] if found else None

    def _by_key(self, key: int) -> Session | None:
        found = [one for one in self.sessions if one.key == key]
        return found[0] if found else None

    @staticmethod
    def _set_up(session: Session) -> bool:
        return session.stage is not Stage.RELAYING

    def of_stage(self, stage: Stage) -> list[Session]:
        """Return the sessions that are so far."""
        return [one for one in self.sessions if one.stage is stage]

    def open_callbacks(self) -> list[Session]:
        """Return the sessions that wait for an answer."""
        return [one for one in self.sessions if one.cbid is not None]

    # --- ends -----------------------------------------------------------------------------------------

    def _fail(self, session: Session, code: Code, *, tell: bool = True) -> list[Said]:
        self.sessions.remove(session)
        if session.cbid is not None and session.app in self.apps:
            self.apps[session.app].late[session.cbid] = session.reqid, code
        if not tell or session.reqid is None:
            return []
        return [(session.app, session.reqid, code)]

    def _claim(self, app: int, reqid: int) -> None:
        """A fresh request takes its id; who had it is abandoned."""
        session = self._by_reqid(app, reqid)
        if session is not None:
            codes = {Stage.PROPOSED: Code.LOCALID_REFUSED, Stage.PLAINTEXT: Code.BAD_CALLBACK_ANSWER}
            # What its callback is answered late with is the code for an id that was used again
            self._fail(session, codes.get(session.stage, Code.REQID_IN_USE), tell=False)

    # --- applications ---------------------------------------------------------------------------------

    def connected(self, app: int) -> None:
        """One more application."""
        self.apps[app] = App()

    def gone(self, app: int) -> list[Said]:
        """A connection is over."""
        del self.apps[app]
        for session in list(self.sessions):
            if self._set_up(session) and session.app == app:
                self.sessions.remove(session)
            elif session.controller == app:
                if session.fork:
                    session.controller = None
                else:
                    self.sessions.remove(session)
        return []

    def request(self, app: int, reqid: int, what: str | Code) -> list[Said]:
        """A request that is answered at once."""
        self._claim(app, reqid)
        return [(app, reqid, what)]

    def starttls(self, session: Session, *, fd: bool) -> list[Said]:
        """STARTTLS."""
        assert session.reqid is not None
        self._claim(session.app, session.reqid)
        if not fd:
            return [(session.app, session.reqid, Code.CIPHER_FD_MISSING)]
        if self._by_key(session.key) is not None:
            return [(session.app, session.reqid, Code.CTLKEY_IN_USE)]
        self.sessions.append(session)
        if not session.server and session.check:
            session.stage = Stage.PROPOSED
            return [(session.app, session.reqid, "STARTTLS_LOCALID")]
        return []

    def control(self, app: int, reqid: int, key: int, *, detach: bool) -> list[Said]:
        """DETACH and REATTACH: the table of section 7.5."""
        self._claim(app, reqid)
        session = self._by_key(key)
        if session is None or self._set_up(session):
            return [(app, reqid, Code.CTLKEY_UNKNOWN)]
        if detach:
            if session.controller == app:
                session.controller = None
                return [(app, reqid, "SUCCESS")]
            return [(app, reqid, Code.CTLKEY_DETACHED if session.controller is None else Code.CTLKEY_NOT_YOURS)]
        if session.controller is not None:
            return [(app, reqid, Code.CTLKEY_ATTACHED)]
        session.controller = app
        return [(app, reqid, "SUCCESS")]

    def answer(self, app: int, reqid: int, cbid: int, cmd: str, localid: str, *, fd: bool) -> list[Said]:
        """A message with a callback id: an answer, a late one, or neither."""
        session = self._by_cbid(app, cbid)
        if session is None:
            late = self.apps[app].late.get(cbid)
            if late is None:
                return [(app, reqid, Code.COMMAND_UNKNOWN)]
            del self.apps[app].late[cbid]
            had, code = late
            other = self._by_reqid(app, reqid)
            if had == reqid or (other is not None and other.cbid is None):
                return []
            if other is not None:  # its callback had the id last, and the application has used it since
                other.reqid = None
            return [(app, reqid, code)]
        other = self._by_reqid(app, reqid)
        if other is not None and other is not session:
            if other.cbid is not None:
                other.reqid = None
            else:
                self.sessions.remove(other)
        session.cbid, session.reqid = None, reqid
        if session.stage is Stage.PROPOSED:
            return self._proposal_answered(session, cmd, localid, fd=fd)
        if cmd != "PLAINTEXT_CONNECT":
            return self._fail(session, Code.BAD_CALLBACK_ANSWER)
        return self._relay(session) if fd else self._fail(session, Code.PLAIN_FD_MISSING)

    def _proposal_answered(self, session: Session, cmd: str, localid: str, *, fd: bool) -> list[Said]:
        if cmd != "STARTTLS_LOCALID":
            return self._fail(session, Code.LOCALID_REFUSED)
        session.given = fd
        if not fd and not localid:
            return self._fail(session, Code.LOCALID_REFUSED)
        if not fd and localid == "nobody.example":
            return self._fail(session, Code.LOCALID_UNKNOWN if session.server else Code.LOCALID_NOT_DISCLOSED)
        session.stage = Stage.HANDSHAKE
        return []

    def _relay(self, session: Session) -> list[Said]:
        assert session.reqid is not None
        said: list[Said] = [(session.app, session.reqid, "STARTTLS")]
        session.stage, session.reqid = Stage.RELAYING, None
        session.controller = None if session.detach else session.app
        return said

    # --- the worker -----------------------------------------------------------------------------------

    def hello(self, session: Session) -> list[Said]:
        """A server's remote has spoken."""
        if not session.check:
            session.stage = Stage.HANDSHAKE
            return []
        session.stage = Stage.PROPOSED
        return self._call_back(session, "STARTTLS_LOCALID")

    def shows(self, session: Session) -> list[Said]:
        """The remote shows a certificate to a session that is judged; the application hears nothing of that."""
        session.shown = True
        if not session.judged:
            session.stage = Stage.ALERT
        return []

    def alerted(self, session: Session) -> list[Said]:
        """The remote knows that it was refused."""
        return self._fail(session, Code.VALIDATION_FAILED)

    def done(self, session: Session) -> list[Said]:
        """The handshake is over, and well."""
        if session.given:
            if session.reqid is None:
                session.stage = Stage.RELAYING
                return []
            return self._relay(session)
        session.stage = Stage.PLAINTEXT
        return self._call_back(session, "PLAINTEXT_CONNECT")

    @staticmethod
    def _call_back(session: Session, cmd: str) -> list[Said]:
        return [] if session.reqid is None else [(session.app, session.reqid, cmd)]

    def failed(self, session: Session) -> list[Said]:
        """The handshake failed."""
        return self._fail(session, Code.REMOTE_CLOSED)

    def ended(self, session: Session) -> list[Said]:
        """A session that relayed is over; nobody is told."""
        self.sessions.remove(session)
        return []

    def killed(self, session: Session) -> list[Said]:
        """An operator ends a session."""
        if self._set_up(session):
            return self._fail(session, Code.SESSION_KILLED)
        self.sessions.remove(session)
        return []
