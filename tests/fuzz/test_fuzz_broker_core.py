"""Invariant: whatever applications, workers, keyd and masters say, in any order, the broker's core does not raise,
gives every descriptor away exactly once, says nothing to an application that it is not owed, and forgets everything.

Chance is seeded: a failure names its seed.  For more of it set BROKER_FUZZ_SEEDS to 1000.
"""

import os
import random
from collections import Counter

import pytest

from tests.playbook.broker import ACCEPTS, DEFAULTS, World, anchor, credential, kept_of
from tests.unit.test_broker_radius import DYNAMIC, record
from tlspool_broker import kept
from tlspool_broker.events import (
    AdoptWorker,
    Clock,
    DrainAsked,
    FdKind,
    FinishAsked,
    HandOver,
    HelperSaid,
    KeydSaid,
    KillAsked,
    MasterSaid,
    SendApp,
    SessionId,
    StopAsked,
    WorkerSaid,
)
from tlspool_broker.lasting import BLOCK, Lasting
from tlspool_common.aaawire import AccountCount, AccountStart, Authenticate, Authorize, Subject, Tags
from tlspool_common.appwire import Cmd, Control, Flag, Info, Prng, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.infokind import InfoKind
from tlspool_common.messages import (
    PROTOCOL,
    Access,
    AccessTold,
    Account,
    Accounted,
    AskedByRemote,
    ClientHelloSeen,
    Finding,
    HandshakeDone,
    HandshakeFailed,
    KeyAnswer,
    KeydHello,
    MasterHello,
    MasterLeaves,
    OnlineHello,
    RadiusHello,
    RemoteShown,
    RemoteTold,
    SessionEnded,
    SessionHere,
    SessionsTold,
    Side,
    Told,
    WorkerBorn,
    WorkerGone,
)
from tlspool_common.servicewire import ChoiceFlag, Lidentry

SEEDS = int(os.environ.get("BROKER_FUZZ_SEEDS", "12"))
STEPS = 1500


class Monkey(World):
    """Does anything, and checks after each event what must always hold."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        config = f"isolation {self.chance.choice(['application', 'connection', 'pool'])}\nmax_sessions 40\n"
        if self.chance.random() < 0.5:
            config += "max_handshakes 12\nmax_handshakes_per_caller 6\nhandshake_rate_per_caller 40\n"
        self.owed = Counter()
        self.open = set()
        self.given = []
        self.apps, self.callbacks = [], []
        config += "max_sessions_per_caller 30\nmax_requests_per_connection 12\npin_services 3\nchoice_services 2\n"
        if self.chance.random() < 0.4:
            config += "radius_secret_file /x\nradius_authn 192.0.2.1\nradius_acct 192.0.2.1\nradius_wait_s 2\n"
            config += self.chance.choice(["", "radius_authz 192.0.2.2\n"])
            allow = "account a allow remoteid=@example.org\n"
            config += self.chance.choice(["", allow, allow, f"account b deny service=smtp\n{allow}"])
            config += self.chance.choice(["", "radius lax anonymous=accept unanswered=accept\n", "radius a acct=no\n"])
        super().__init__(config, lasting=Lasting(b"lasting", iter(range(1001, 10**9, BLOCK)).__next__))
        self.accounted, self.late = set(), []
        accounting = self.core.accounting
        accounting.start, accounting.failed, accounting.ended = self.starts, self.ends, self.ends
        self.records.disclosures["www.example.com"].append("other.example")
        self.records.identities["other.example", Side.CLIENT] = [credential("other.example")]
        self.records.identities["me.example", Side.SERVER] = [credential("me.example")]

    def starts(self, session, done):
        """Accounting of a session is to begin: it does, now or later, or cannot."""
        assert session.session_id not in self.accounted
        self.accounted.add(session.session_id)
        if self.chance.random() < 0.6:
            done(None)
        elif self.chance.random() < 0.3:
            done(PoolError(Code.ACCOUNT_UNKEPT, "no space left"))
        else:
            self.late.append(done)

    def ends(self, session, _words):
        """It ends once, whatever has become of the session."""
        self.accounted.remove(session.session_id)

    def happen(self, event):
        frame, passed = getattr(event, "frame", None), getattr(event, "passed", None)
        fd = passed.fd if passed else getattr(event, "fd", None)
        if fd is not None:
            self.given.append(fd)
        if frame is not None:
            self.owed[event.connection, frame.reqid] += 1
        lines = [self.core.connections.get(app) for app in self.apps]
        self.open = {(line.connection_id, one.reqid) for line in lines for one in line.by_cbid.values()}
        posts = self.core.chooser._posts.values()
        self.open |= {(post.connection.connection_id, post.reqid) for post in posts if post.busy or not post.registered}
        effects = super().happen(event)
        for effect in effects:
            if isinstance(effect, HandOver):
                self.apps.remove(effect.connection)
            if isinstance(effect, SendApp):
                self.look_at(effect.connection, effect.frame)
            if isinstance(effect, AdoptWorker):
                assert effect.fd in self.given
        return effects

    def look_at(self, app, frame):
        """The library has one place for an answer to each request id, and an array without bounds.

        Only a final ERROR may follow a callback that was not answered.
        """
        key = app, frame.reqid
        assert app in self.apps
        if frame.cmd == Cmd.ERROR and key in self.open:
            self.open.remove(key)  # and one only
        else:
            self.owed[key] -= 1
        assert self.owed[key] >= 0, frame
        if frame.cmd in (Cmd.PLAINTEXT_CONNECT, Cmd.STARTTLS_LOCALID, Cmd.LIDENTRY_CALLBACK):
            self.callbacks.append((app, frame))

    def step(self):
        chance = self.chance
        if chance.random() < 0.02 or not self.apps:
            # before it is there, as the core may answer at once
            self.apps.append(self.app(chance.choice([1, 2, 3])))
        session = chance.choice(list(self.core.sessions) or [None])
        chance.choices(
            [
                self.ask,
                self.rejoin,
                self.garbage,
                self.answer_one,
                self.control,
                self.question,
                self.aaa,
                self.tell,
                self.serve,
                self.go,
                self.speak,
                self.daemon,
                self.wait,
                self.kill,
                self.edit,
                self.advise,
                self.rules,
            ],
            [30, 4, 8, 25, 6, 15, 14, 15, 5, 1, 70, 8, 4, 1, 2, 6, 30],
        )[0](session)

    def maybe_fd(self):
        kind = self.chance.choice([None, FdKind.STREAM, FdKind.STREAM, FdKind.STREAM, FdKind.SEQPACKET, *FdKind])
        return kind and self.fd(kind)

    def ask(self, _session):
        chance = self.chance
        client, well = chance.random() < 0.5, chance.random() < 0.7
        role = (chance.choice([0x9, 0x9, 0xF]) if client else 0x6) | chance.choice([0, 0, Flag.LOCALID_CHECK])
        flags = role | chance.choice([0, 0, Flag.FORK, Flag.DETACH, Flag.IGNORE_REMOTEID, 0xFFFFF])
        self.starttls(
            chance.choice(self.apps),
            reqid=chance.randrange(6),
            cbid=chance.choice([0, 0, 0, chance.randrange(65536)]),
            passed=self.fd() if well else self.maybe_fd(),
            flags=role if well else flags,
            localid=(chance.choice(["me.example", ""]) if client else "localhost")
            if well
            else chance.choice(["localhost", "", "?"]),
            remoteid="www.example.com" if well else chance.choice(["www.example.com", "", "@"]),
            ctlkey=bytes([chance.randrange(20)]) * 16,
            timeout_ms=chance.choice([0, 50, 0xFFFFFFFF]),
        )

    def garbage(self, _session):
        chance = self.chance
        cmd = chance.choice([*Cmd, chance.randrange(1 << 32)])
        cbid = chance.choice([0, chance.randrange(1, 65536)])
        self.send(
            chance.choice(self.apps),
            cmd,
            chance.randbytes(380),
            reqid=chance.randrange(6),
            cbid=cbid,
            passed=self.maybe_fd(),
        )

    def answer_one(self, _session):
        if not self.callbacks:
            return
        chance = self.chance
        app, frame = self.callbacks[-1] if chance.random() < 0.7 else chance.choice(self.callbacks)
        if app in self.apps and frame.cmd == Cmd.LIDENTRY_CALLBACK:
            self.choose(app, frame)
        elif app in self.apps:
            cmd = chance.choice([None, None, None, Cmd.ERROR, Cmd.PING])
            reqid = chance.choice([None, None, chance.randrange(6)])
            names = ["", "localhost", "me.example", "other.example", "?"]
            changes = {} if chance.random() < 0.7 else {"localid": chance.choice(names)}
            passed = None if changes and chance.random() < 0.7 else self.maybe_fd()
            self.answer(app, frame, cmd=cmd, reqid=reqid, passed=passed, **changes)

    def serve(self, _session):
        """Register a program that chooses identities, or one that asks people for PINs."""
        chance = self.chance
        flags = chance.choice([0, ChoiceFlag.WANT_DBENTRY, ChoiceFlag.SKIP_DBENTRY, chance.randrange(1 << 32)])
        payload = Lidentry(flags=flags, timeout_s=chance.choice([0, 1, 60])).to_payload()
        cmd = chance.choice([Cmd.LIDENTRY_REGISTER] * 3 + [Cmd.LOCAL_ASKER, Cmd.PINENTRY])
        self.send(chance.choice(self.apps), cmd, payload, reqid=chance.randrange(6), passed=self.maybe_fd())

    def choose(self, app, frame):
        """Answer a question about an identity, more or less well."""
        chance = self.chance
        asked = Lidentry.from_payload_untrusted(frame.payload)
        answer = Lidentry(
            flags=asked.flags | chance.choice([ChoiceFlag.DBINSERT, ChoiceFlag.DBAPPEND] * 4 + [0, ChoiceFlag.NEW]),
            localid=chance.choice(["me.example"] * 9 + ["other.example", "", "nobody.example", "?"]),
            remoteid=chance.choice([asked.remoteid] * 6 + ["", ".example.com", "evil.example"]),
        )
        cmd = chance.choice([frame.cmd] * 8 + [Cmd.ERROR, Cmd.PING])
        reqid = chance.choice([frame.reqid, frame.reqid, chance.randrange(6)])
        payload = chance.randbytes(380) if chance.random() < 0.05 else answer.to_payload()
        self.send(app, cmd, payload, reqid=reqid, cbid=frame.cbid, passed=self.maybe_fd())

    def control(self, session):
        chance = self.chance
        app, key = chance.choice(self.apps), bytes([chance.randrange(20)]) * 16
        cmd = chance.choice([Cmd.CONTROL_DETACH, Cmd.CONTROL_REATTACH])
        relaying = [one for one in self.core.sessions if one.state.name == "RELAYING"]
        if relaying:
            session = chance.choice(relaying)
            key = session.request.ctlkey
            if session.controller is not None and chance.random() < 0.7:
                app, cmd = session.controller.connection_id, Cmd.CONTROL_DETACH
        self.send(app, cmd, Control(key).to_payload(), reqid=chance.randrange(6))

    def question(self, session):
        """Ask about a session, mostly one that relays, mostly over the connection that controls it."""
        chance = self.chance
        relaying = [one for one in self.core.sessions if one.state.name == "RELAYING"]
        app, key = chance.choice(self.apps), bytes([chance.randrange(20)]) * 16
        if relaying:
            session = chance.choice(relaying)
            key = session.request.ctlkey
            if session.controller is not None and chance.random() < 0.9:
                app = session.controller.connection_id
        flags = Flag.RENEGOTIATE | chance.choice([0x6, 0x6, 0x9, 0, 0x6 | Flag.REQUEST_REMOTEID])
        cmd, payload = chance.choice(
            [
                (Cmd.PRNG, Prng.ask(key, b"EXPERIMENTAL-x", chance.choice([None, b""]), chance.choice([0, 16, 400]))),
                (Cmd.INFO, Info(key, chance.choice(list(InfoKind)), chance.choice([None, None, b"\x82\x01x"]))),
                (Cmd.STARTTLS, Starttls(flags=flags, ctlkey=key, remoteid=chance.choice(["", "www.example.com", "@"]))),
            ]
        )
        passed = self.fd() if chance.random() < 0.1 else None
        self.send(app, cmd, payload.to_payload(), reqid=chance.randrange(6), passed=passed)

    def tell(self, _session):
        """Answer a question, mostly one that is open, mostly well; or let a remote ask."""
        chance = self.chance
        asked = list(self.core.questions._open.values())
        relaying = [one for one in self.core.sessions if one.state.name in ("RELAYING", "EXPECT_PLAINTEXT")]
        if chance.random() < 0.2 and relaying:
            session = chance.choice(relaying)
            if session.plan.side is Side.CLIENT or chance.random() < 0.02:
                self.happen(WorkerSaid(session.worker.number, AskedByRemote(session_id=session.session_id)))
        elif asked:
            question = chance.choice(asked)
            number = question.number if chance.random() < 0.98 else chance.randrange(1000)
            remote = (question.cmd == Cmd.STARTTLS) is (chance.random() < 0.98)
            code, names = chance.choice([0, 0, 0, 126, 129, 402]), ("dns:www.example.com",)
            ids = {"session_id": question.session.session_id, "question": number, "code": code}
            message = RemoteTold(
                **ids, asked=chance.random() < 0.8, detail="", remote_verified=not code, remote_names=names,
                remote_subject="", remote_sha256=b"",
            ) if remote else Told(**ids, value=chance.choice([bytes(16), bytes(16), b"", bytes(350)]))  # fmt: skip
            self.happen(WorkerSaid(question.worker, message))

    def go(self, _session):
        app = self.chance.choice(self.apps)
        self.apps.remove(app)
        self.gone(app)

    def speak(self, session):
        chance = self.chance
        workers = list(self.core.workers)
        if session is None or not workers:
            return
        worker = session.worker or chance.choice(workers)
        if chance.random() < 0.01:
            worker = chance.choice(workers)
        right = {
            "EXPECT_CLIENT_HELLO": ClientHelloSeen,
            "EXPECT_HANDSHAKE": ClientHelloSeen if session.as_server and chance.random() < 0.5 else HandshakeDone,
            "EXPECT_ADVICE": None,
            "EXPECT_ALERT": HandshakeFailed,
            "EXPECT_RADIUS": None,
            "EXPECT_END": SessionEnded,
            "RELAYING": chance.choice([SessionEnded, None, None]),
        }.get(session.state.name)
        if right is HandshakeDone and session.asks.asks and session.shown is None:
            right = RemoteShown
        kind = right if chance.random() < 0.995 else chance.choice(list(DEFAULTS))
        if chance.random() < 0.05:
            kind = HandshakeFailed
        if kind is None:
            return
        fields = dict(DEFAULTS[kind])
        if kind is ClientHelloSeen and session.plan.localid is not None and chance.random() < 0.9:
            fields["sni"] = session.plan.localid.domain
        if kind is HandshakeDone and session.plan.localid is not None:
            fields["sni"] = session.plan.localid.domain
        if kind is HandshakeDone and chance.random() < 0.2:
            fields |= {"remote_verified": False, "sni": "elsewhere.example"}
        if kind is RemoteShown and chance.random() < 0.3:
            fields |= {"fault": chance.choice([402, 404, 413, 65535]), "anchor_sha256": chance.choice([b"", b"x" * 32])}
        if kind is HandshakeFailed:
            fields |= {"code": chance.choice([0, 302, 516, 999, 65535]), "alert": chance.randrange(256)}
        number = session.session_id if chance.random() < 0.99 else chance.randrange(2**64)
        self.happen(WorkerSaid(worker.number, kind(session_id=number, **fields)))

    def daemon(self, _session):
        chance = self.chance
        workers = list(self.core.workers)
        if not self.core.keyd.present and chance.random() < 0.5:
            self.keyd_comes()
            return
        if not self.core.workers.has_master and chance.random() < 0.5:
            self.master_comes()
            return
        match chance.randrange(26):
            case 0:
                self.keyd_goes()
            case 1:
                self.keyd_comes()
            case 2:
                self.happen(KeydSaid(self.keyd, chance.choice([KeyAnswer(code=0, detail="", spki=b""), HELLO])))
            case 3 if workers:
                self.worker_goes(chance.choice(workers).number, chance.random() < 0.5)
            case 4:
                self.master_goes()
            case 5:
                self.master_comes()
            case 6:
                self.happen(MasterSaid(self.master, WorkerGone(worker_id=1, status=1, meaning="x")))
            case 7:
                self.happen(MasterSaid(self.master, MasterHello(protocol=PROTOCOL + 1, pid=1)))
            case 8 | 9 | 10:
                self.worker_comes_again(chance.randrange(1, 30), protocol=PROTOCOL + (chance.random() < 0.1))
            case 11:
                self.happen(MasterSaid(self.master, MasterLeaves()))
            case 12:
                self.happen(DrainAsked(chance.random() < 0.1))
            case 13 if workers:
                self.happen(FinishAsked(chance.choice(workers).worker_id))
            case _:
                born = WorkerBorn(worker_id=chance.randrange(1, 30), pid=1)
                self.happen(MasterSaid(self.master, born, self.fd().fd))

    def rejoin(self, _session):
        """A worker that an earlier broker had tells of a session, or that it has told, mostly well."""
        chance = self.chance
        telling = [worker for worker in self.core.workers if worker.nonce]
        if not telling:
            return
        worker = chance.choice(telling)
        nonce = worker.nonce if chance.random() < 0.9 else chance.randrange(1 << 63)
        number = worker.told_to + 1 if chance.random() < 0.95 else chance.randrange(1, 2000)
        while self.core.sessions.get(number) is not None and chance.random() < 0.98:
            number += 1
        key = b"elsewhere" if chance.random() < 0.02 else self.core.rejoin._lasting.key("records")
        record = kept.seal(key, kept_of(number, worker.worker_id, uid=chance.choice([1, 2, 3])))
        if chance.random() < 0.02:
            record = record[:20] + bytes([record[20] ^ 1]) + record[21:]
        if chance.random() < 0.3:
            self.happen(WorkerSaid(worker.number, SessionsTold(nonce=nonce, last=number, more=chance.random() < 0.3)))
        else:
            self.happen(WorkerSaid(worker.number, SessionHere(nonce=nonce, session_id=number, record=record)))

    def edit(self, _session):
        """An operator changes what is demanded."""
        chance = self.chance
        texts = ["1", "1", "1", "F", "F", "a", "p", "R", "R", "TrO&|", "C", "o~", "D", "?"]
        names = [("localhost", Side.SERVER), ("me.example", Side.SERVER), ("me.example", Side.CLIENT)]
        self.records.change(
            trust=chance.random() < 0.3,
            expressions={name: chance.choice(texts) for name in names if chance.random() < 0.3},
            disclosure_expressions={"www.example.com": chance.choice(texts)} if chance.random() < 0.2 else {},
            trusted=[anchor(3, b"root", chance.choice(["1", "1", "1", "1", "a", "a", "r", "0"]))],
        )

    def advise(self, _session):
        """The helper says hello, answers, or goes."""
        chance = self.chance
        if self.helper is None:
            return
        if not self.core.online.helper.ready and chance.random() < 0.8:
            self.happen(HelperSaid(self.helper, 0, OnlineHello(protocol=PROTOCOL + (chance.random() < 0.1), pid=1)))
        elif chance.random() < 0.05:
            self.helper_goes()
        else:
            exchange = (
                next(iter(self.core.online.helper._open), 0) if chance.random() < 0.98 else chance.randrange(1 << 32)
            )
            crl, ocsp = chance.choice(list(Finding)), chance.choice([Finding.GOOD, *Finding])
            if exchange or chance.random() < 0.02:
                self.helper_says(crl, ocsp, exchange=exchange)

    def rules(self, _session):
        """The helper that speaks RADIUS says hello, answers, asks, or goes."""
        chance, helper = self.chance, self.core.radius.helper
        if self.radius is None:
            return
        if self.late and chance.random() < 0.5:
            self.late.pop()(chance.choice([None, None, PoolError(Code.ACCOUNT_UNKEPT)]))
            self.happen(KillAsked(SessionId(1 << 50)))  # nobody: what was done comes out
        elif not helper.ready and chance.random() < 0.8:
            self.happen(HelperSaid(self.radius, 0, RadiusHello(protocol=PROTOCOL + (chance.random() < 0.1), pid=1)))
        elif chance.random() < 0.005:
            self.radius_goes()
        elif chance.random() < 0.05:
            self.happen(HelperSaid(self.radius, chance.randrange(9), DYNAMIC))
        elif chance.random() < 0.03:
            self.core.radius.account(RECORD, chance.choice([None, lambda _told: None]))
        elif open_ones := list(helper._open.items()):
            exchange, question = chance.choice(open_ones)
            if chance.random() < 0.005:
                exchange = chance.randrange(1 << 32)
            if isinstance(question.message, Account):
                told = Accounted(code=chance.choice([0, 0, 0, 807]), detail="")
            else:
                access = chance.choice([Access.ACCEPTED] * 6 + list(Access))
                told = AccessTold(access=access, **ACCEPTS | {"message": "\x1b[2J", "tags": ("a", "b\n")})
            self.happen(HelperSaid(self.radius, exchange, told))

    def aaa(self, _session):
        """Ask RADIUS, or account for something: mostly about a session of the same user, or whom a rule allows."""
        chance = self.chance
        app = chance.choice(self.apps)
        mine = [one for one in self.core.sessions if one.controller and one.controller.connection_id == app]
        keys = [*self.core.connections.get(app).subjects, *(one.request.ctlkey for one in mine)]
        key = chance.choice(keys) if keys and chance.random() < 0.9 else bytes([chance.randrange(12)]) * 16
        whom = chance.choice(["john@example.org"] * 5 + ["www.example.com", "mary@example.net", "@"])
        what = chance.choice(["print", "mail"]), chance.choice(["", "1", "2"])
        cmd, payload = chance.choice(
            [
                (Cmd.LOCAL_SUBJECT, Subject(bytes([chance.randrange(12)]) * 16, whom)),
                (Cmd.LOCAL_SUBJECT, Subject(key, "john@example.org", service="smtp")),
                (Cmd.LOCAL_AUTHENTICATE, Authenticate(key, b"canary", chance.choice([0, 500]))),
                (Cmd.LOCAL_AUTHORIZE, Authorize(key, *what)),
                (Cmd.LOCAL_ACCOUNT_START, AccountStart(key, *what, chance.choice([0, 0, 0, 1]))),
                (Cmd.LOCAL_ACCOUNT_UPDATE, AccountCount(*what, chance.choice([None, 7]))),
                (Cmd.LOCAL_ACCOUNT_END, AccountCount(*what, chance.choice([None, 7]))),
                (Cmd.LOCAL_TAGS, Tags(key, chance.randrange(3))),
            ]
        )
        self.send(app, cmd, payload.to_payload(), reqid=chance.randrange(6))

    def wait(self, _session):
        self.later(self.chance.choice([1, 60, 1100, 5000, 70_000]))

    def kill(self, session):
        if session is not None:
            self.happen(KillAsked(session.session_id))

    def check(self):
        """Everything is accounted for."""
        sessions, connections = self.core.sessions, self.core.connections
        held = [fd for session in sessions for fd in (session.crypt, session.plain) if fd is not None]
        away = Counter(map(id, self.fds + held))
        assert away == Counter(map(id, self.given))
        room = sessions.room
        assert room.users() == sorted(session.caller.uid for session in sessions)
        assert room.handshakes == sum(session.being_set_up for session in sessions)
        states = {one.session_id: one.state.name for one in sessions}
        accounts = list(self.core.quotas._accounts.values())
        assert {number for one in accounts for number in one.silent} == {
            number for number, state in states.items() if state == "EXPECT_CLIENT_HELLO"
        }
        assert {number for one in accounts for number in one.stalled} == {
            number for number, state in states.items() if state == "EXPECT_HANDSHAKE"
        }
        of_workers = [number for worker in self.core.workers for number in worker.sessions]
        assert sorted(of_workers) == sorted(one.session_id for one in sessions if one.worker is not None)
        exchanges = [one for app in self.apps for one in connections.get(app).exchanges.values()]
        assert {id(one) for one in exchanges} == {id(one.exchange) for one in sessions if one.exchange is not None}
        for app in self.apps:
            connection = connections.get(app)
            by_reqid = {one.reqid: one for one in connection.exchanges.values() if one.reqid is not None}
            by_cbid = {one.cbid: one for one in connection.exchanges.values() if one.cbid is not None}
            assert (connection.by_reqid, connection.by_cbid) == (by_reqid, by_cbid)
        questions = self.core.questions
        assert {one.session.session_id for one in questions._open.values()} <= {one.session_id for one in sessions}
        assert {one.connection.connection_id for one in questions._open.values()} <= set(self.apps)
        assert len(questions._open) == len(questions._by_reqid) == questions._at_worker.total()
        posts = list(self.core.chooser._posts.values())
        waiting = [question for post in posts for question in [*post.queue, *filter(None, [post.asked])]]
        choosing = {one.session_id for one in sessions if one.state.name == "EXPECT_CHOICE"}
        assert Counter(question.session.session_id for question in waiting) == Counter(choosing)
        for post in posts:
            assert post.caller.uid == next(uid for uid, one in self.core.chooser._posts.items() if one is post)
            assert not (post.queue and post.registered and not post.busy)
        aaa = self.core.aaa
        assert {one.connection.connection_id for one in aaa._open.values()} <= set(self.apps)
        assert len(aaa._open) == len(aaa._by_reqid) == aaa._by_uid.total()
        assert {timer.number for timer in self.timers if timer.clock is Clock.AAA} == set(aaa._open)
        items = self.core.items
        assert set(items._shelf.load()) == {item.acct_id for item in items}
        assert items._by_uid == Counter(item.uid for item in items)
        pending = [one.pending for one in sessions if one.pending is not None]
        assert {one.state.name for one in sessions if one.pending is not None} <= {"EXPECT_RADIUS"}
        radius = self.core.radius
        asked = {number for one in pending for number in one.questions.values()}
        awaited = {number for number, one in radius.helper._open.items() if one.told is not None and not one.quiet}
        assert asked <= awaited
        begun = {one.session_id for one in sessions if one.accounted}
        failed = {one.session_id for one in sessions if one.state.name == "EXPECT_END" and not one.established_ms}
        assert self.accounted == begun - failed
        assert set(radius._records) == {*radius._unsent, *radius._sent, *radius._unkept}
        advised = {one.question for one in sessions if one.question}
        assert {one.state.name for one in sessions if one.question} <= {"EXPECT_ADVICE"}
        assert advised == {
            number for number, one in self.core.online.helper._open.items() if one.told is not None and not one.quiet
        }
        asked = {app: connections.get(app).asked for app in self.apps}
        assert {app: cbids for app, cbids in asked.items() if cbids} == {
            post.connection.connection_id: {post.cbid} for post in posts if post.cbid
        }


RECORD = record()
HELLO = KeydHello(protocol=PROTOCOL + 1, pid=1, grant_secret=bytes(32))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_anything_in_any_order(no_leaks, seed):
    monkey = Monkey(seed)
    for step in range(STEPS):
        monkey.step()
        if step % 50 == 0:
            monkey.check()
    monkey.check()
    # in the end everybody goes away, and nothing is left
    monkey.happen(StopAsked())
    for app in list(monkey.apps):
        monkey.apps.remove(app)
        monkey.gone(app)
    for worker in list(monkey.core.workers):
        monkey.worker_goes(worker.number)
    monkey.later(1_000_000)
    monkey.check()
    sessions = monkey.core.sessions
    assert len(sessions) == len(monkey.core.connections) == len(monkey.core.workers) == 0
    assert not sessions.keys
    assert not sessions.room.users()
    assert not sessions._waits
    assert not monkey.core.workers._waiting
    assert not [timer for timer in monkey.timers if timer.clock.name in ("SESSION", "CHOICE", "QUESTION")]
    assert not monkey.accounted
    assert not monkey.core.questions
    assert not monkey.core.questions._by_session
    assert not monkey.core.questions._by_connection
    assert not monkey.core.chooser._posts
    monkey.close()
    assert all(isinstance(fd, OwnedFd) for fd in monkey.given)


def test_the_monkey_gets_about(no_leaks):
    """It is no evidence if all it ever gets is the first refusal."""
    reached, rules = set(), set()
    for seed in range(110):
        monkey = Monkey(seed)
        for _ in range(STEPS):
            monkey.step()
        monkey.close()
        reached |= {note.event for note in monkey.notes}
        rules |= {note.fields.get("rule") for note in monkey.notes}
    assert {"session.start", "session.end", "worker.condemned", "keyd.lost", "master.lost"} <= reached
    assert {"session.resumed", "worker.rejoined", "worker.let_go", "workers.finish", "pool.draining"} <= reached
    assert {"localid.chosen", "localid.refused", "session.detached", "session.attached"} <= reached
    assert {"choice.made", "choice.stored", "choice.service_gone", "pin.service_handed_over"} <= reached
    assert {"choice_refused", "choice_timeout", "lidentry_taken", "service_denied", "service_shared"} <= rules
    assert {"radius.rejected", "radius.unanswered", "session.reauthenticated"} <= reached
    assert {"aaa.accepted", "aaa.rejected", "aaa.unanswered", "account.started", "account.ended"} <= reached
    assert {"account_foreign", "account_unknown", "radius_unused"} <= rules
    assert {"radius_rejected", "radius_unanswered", "radius_unasked", "radius_anonymous", "account_unkept"} <= rules
    assert {"pin.stored", "helper.connected", "helper.lost", "session.asks_online"} <= reached
    assert {"validation_failed", "validation_undecided", "revoked", "revocation_unknown", "expired"} <= rules
    assert {"callback_timeout", "ctlkey_in_use", "no_keyd", "no_worker", "worker_died", "reqid_in_use"} <= rules
