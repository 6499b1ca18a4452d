"""A broker's core with everybody around it played by the test: events go in, effects are kept and looked at."""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
from dataclasses import replace

from tlspool_broker.core import BrokerCore
from tlspool_broker.credentials import Anchor, Credential
from tlspool_broker.events import (
    AppConnected,
    AppFrame,
    AppGone,
    Arm,
    Began,
    Caller,
    Clock,
    ConnectionId,
    Disarm,
    DropFd,
    FdKind,
    HelperKind,
    HelperLost,
    HelperSaid,
    KeydLost,
    KeydSaid,
    KillAsked,
    MasterLost,
    MasterSaid,
    Note,
    PassedFd,
    PeerId,
    Reconfigured,
    SendApp,
    SendHelper,
    SendMaster,
    SendWorker,
    StartHelper,
    StopAsked,
    Timer,
    TimerFired,
    WorkerLost,
    WorkerNumber,
    WorkerSaid,
)
from tlspool_broker.helper import PAUSE_MS
from tlspool_broker.kept import Kept
from tlspool_broker.trustdata import Pin
from tlspool_common.appwire import Cmd, ErrorReply, Frame, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.identity import generalise
from tlspool_common.messages import (
    PROTOCOL,
    Access,
    AccessTold,
    Account,
    Accounted,
    AskAccess,
    ClientHelloSeen,
    EndReason,
    Finding,
    HandshakeDone,
    HandshakeFailed,
    KeepRecord,
    KeydHello,
    KeyKind,
    MasterHello,
    OnlineHello,
    RadiusHello,
    RemoteAuth,
    RemoteShown,
    RevocationTold,
    SessionEnded,
    Side,
    SpawnWorkers,
    WorkerBorn,
)
from tlspool_common.settings import Part, parse_untrusted

GRANT_SECRET = b"s" * 32
SERVER, CLIENT = 0x6, 0x9


def credential(name="localhost", kind=KeyKind.EC_P256):
    return Credential(f"pkcs11:object={name}", (name.encode(),), kind, bytes(32))


def anchor(sides=3, der=b"root", valexp="1"):
    return Anchor(sides, der, der.ljust(20, b"."), hashlib.sha256(der).digest(), valexp)


class FakeRecords:
    """Databases in dictionaries; ``change`` makes another generation, and keeps the one before."""

    def __init__(self):
        self.generation = 7
        self.trust_generation = 5
        self.identities = {
            ("localhost", Side.SERVER): [credential()],
            ("me.example", Side.CLIENT): [credential("me.example"), credential("me.example", KeyKind.RSA)],
        }
        self.disclosures = {"www.example.com": ["me.example"]}
        self.trusted = [anchor(3, b"root"), anchor(1, b"other")]
        self.broken = None
        self.added = []
        self.expressions = {}
        self.disclosure_expressions = {}
        self.stored_pins = {}
        self.pinned = []
        self.revoked = {}
        self.policies = {}
        self.judges = frozenset()
        self.past = {}

    def change(self, *, trust=False, **values):
        """Commit a change of some of the dictionaries."""
        then = self.past[self.generation] = copy.copy(self)
        then.at = self.at
        self.generation += 1
        if trust:
            self.trust_generation = self.generation
        vars(self).update(values)

    def at(self, generation):
        return self.past[generation]

    def _check(self):
        if self.broken:
            raise self.broken

    def credentials(self, donai, side):
        self._check()
        return list(self.identities.get((str(donai), side), []))

    def disclosed(self, remote):
        return self.disclosure(remote)[1]

    def disclosure(self, remote):
        self._check()
        found = next((one for one in generalise(remote) if self.disclosures.get(one)), "")
        return found, self.disclosures.get(found, [])

    def disclose_add(self, selector, localid, *, first, move):
        self._check()
        self.added.append((str(selector), str(localid), first, move))
        return True

    def anchors(self):
        self._check()
        return self.trusted

    def expression(self, donai, side):
        self._check()
        return self.expressions.get((str(donai), side), "")

    def judged_identities(self, side):
        mine = any(one is side and text not in ("", "1") for (_, one), text in self.expressions.items())
        return mine or any(key.startswith("localid:") for key in self.policies)

    def disclosure_expression(self, remote):
        return self.disclosure_expressions.get(self.disclosure(remote)[0], "")

    def needs_judging(self, side):
        self._check()
        return side in self.judges or any(anchor.valexp != "1" for anchor in self.trusted)

    def pins(self, remote):
        self._check()
        return self.stored_pins.get(remote, [])

    def pin_add(self, remote, sha256, author, reason, side):
        self._check()
        self.pinned.append((remote, sha256, author, reason))
        pins = {**self.stored_pins, remote: [*self.pins(remote), Pin(sha256, remote=remote)]}
        self.change(trust=True, stored_pins=pins)

    def revocations(self, issuer_key):
        self._check()
        return self.revoked.get(issuer_key)

    def crypto_policy(self, service, localid):
        keys = (f"localid:{localid}", f"service:{service}", "host")
        return next((self.policies[key] for key in keys if key in self.policies), "")


class World:
    """The core, the time, and who is there."""

    def __init__(self, config="", *, keyd=True, workers=2, lasting=None, records=None, witness=None, shelf=None):
        self.now_ms = 1_000_000
        self.config = config
        self.unix_time_s = 1_700_000_000.5
        self.settings = parse_untrusted(config)
        self.records = records or FakeRecords()
        self._random = itertools.count()
        self.core = BrokerCore(
            self.settings, self.records, self._bytes, lambda: self.unix_time_s, lasting, witness, shelf=shelf
        )
        self.timers = {}
        self.effects = []
        self.notes = []
        self.fds = []
        self._numbers = itertools.count(1)
        self._worker_ids = itertools.count(1)
        self.keyd = self.master = self.helper = self.radius = None
        self.questions = []
        self.asked = []
        if keyd:
            self.keyd_comes()
        if workers is not None:
            self.master_comes()
            for _ in range(workers):
                self.worker_comes()

    def _bytes(self, count):
        return next(self._random).to_bytes(count, "big")

    # --- events ---------------------------------------------------------------------------------------

    def happen(self, event):
        """Let something happen; the effects are returned, and kept in ``effects`` until the next event."""
        self.effects = self.core.handle(event, self.now_ms)
        for effect in self.effects:
            match effect:
                case Arm(timer, delay_ms):
                    self.timers[timer] = self.now_ms + delay_ms
                case Disarm(timer):
                    self.timers.pop(timer, None)
                case Note():
                    self.notes.append(effect)
                case StartHelper(helper) if helper.kind is HelperKind.RADIUS:
                    self.radius = helper
                case StartHelper(helper):
                    self.helper = helper
                case SendHelper(helper) if helper.kind is HelperKind.RADIUS:
                    self.asked.append(effect)
                case SendHelper():
                    self.questions.append(effect)
            fd = getattr(effect, "fd", None)
            if isinstance(fd, OwnedFd):
                assert not fd.closed, effect
                assert not any(fd is other for other in self.fds), "given away twice"
                self.fds.append(fd)
        return self.effects

    def later(self, ms):
        """Let time pass; timers fire when they are due.  Returns all effects."""
        end = self.now_ms + ms
        effects = []
        while due := [(at, str(timer), timer) for timer, at in self.timers.items() if at <= end]:
            at, _, timer = min(due, key=lambda one: one[:2])
            self.now_ms = max(self.now_ms, int(at))
            del self.timers[timer]
            effects += self.happen(TimerFired(timer))
        self.now_ms = end
        self.effects = effects
        return effects

    def fd(self, kind=FdKind.STREAM):
        """Return a descriptor as an application passes it."""
        return PassedFd(OwnedFd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)), kind)

    def app(self, uid=1000, **fields):
        connection = ConnectionId(next(self._numbers))
        caller = Caller(uid, uid, 815, **{"unit": "postfix.service", "command": "smtpd", **fields})
        self.happen(AppConnected(connection, caller))
        return connection

    def gone(self, app, reason="closed it"):
        return self.happen(AppGone(app, reason))

    def ends(self, app, session_id, how):
        """A session that waits for somebody ends by other means; its application is told, if it is there."""
        code = None
        match how:
            case "app":
                self.gone(app)
            case "worker":
                self.worker_goes(self.session(session_id).worker.number)
                code = Code.WORKER_DIED
            case "remote":
                self.say(session_id, HandshakeFailed)
                code = Code.REMOTE_CLOSED
            case "kill":
                self.happen(KillAsked(session_id))
                code = Code.SESSION_KILLED
            case "stop":
                self.happen(StopAsked())
                code = Code.STOPPING
        if code is None:
            assert not self.frames()
        else:
            assert self.error(app)[1] == code
        assert self.state(session_id) in ("OVER", "EXPECT_END")

    def send(self, app, cmd, payload=b"", *, reqid=1, cbid=0, passed=None):
        return self.happen(AppFrame(app, Frame(reqid, cbid, cmd, payload.ljust(380, b"\0")), passed))

    def starttls(self, app, *, reqid=1, passed=True, cbid=0, **fields):
        """Ask for a session: of a server unless flags say otherwise."""
        number = next(self._numbers)
        fields = {"flags": SERVER, "localid": "localhost", "service": "smtp", "ctlkey": number.to_bytes(16), **fields}
        passed = self.fd() if passed is True else passed
        self.send(app, Cmd.STARTTLS, Starttls(**fields).to_payload(), reqid=reqid, cbid=cbid, passed=passed)
        return max((session.session_id for session in self.core.sessions), default=None)

    def starttls_client(self, app, **fields):
        return self.starttls(app, **{"flags": CLIENT, "localid": "", "remoteid": "www.example.com", **fields})

    def keyd_comes(self, secret=GRANT_SECRET):
        self.keyd = PeerId(next(self._numbers))
        return self.happen(KeydSaid(self.keyd, KeydHello(protocol=PROTOCOL, pid=22, grant_secret=secret)))

    def keyd_goes(self):
        return self.happen(KeydLost(self.keyd, "keyd has closed its end"))

    def master_comes(self):
        self.master = PeerId(next(self._numbers))
        return self.happen(MasterSaid(self.master, MasterHello(protocol=PROTOCOL, pid=33)))

    def master_goes(self):
        return self.happen(MasterLost(self.master, "master has closed its end"))

    def worker_comes(self, worker_id=None):
        """A worker is born; return its number."""
        worker_id = next(self._worker_ids) if worker_id is None else worker_id
        self.happen(MasterSaid(self.master, WorkerBorn(worker_id=worker_id, pid=100 + worker_id), self.fd().fd))
        return max((worker.number for worker in self.core.workers), default=None)

    def worker_comes_again(self, worker_id, pid=None, protocol=PROTOCOL):
        """The master introduces a worker that an earlier broker had; return its number."""
        born = WorkerBorn(worker_id=worker_id, pid=pid or 100 + worker_id, again=True, protocol=protocol)
        self.happen(MasterSaid(self.master, born, self.fd().fd))
        found = self.core.workers.by_id(worker_id)
        return found.number if found else None

    def worker_goes(self, worker, broken=False):
        return self.happen(WorkerLost(worker, "worker has closed its end", broken))

    def helper_comes(self):
        """The helper that was started says hello."""
        return self.happen(HelperSaid(self.helper, 0, OnlineHello(protocol=PROTOCOL, pid=44)))

    def helper_goes(self):
        return self.happen(HelperLost(self.helper, "online has closed its end"))

    def helper_says(self, crl=Finding.NONE, ocsp=Finding.NONE, detail="", *, exchange=None):
        """The helper answers the last question."""
        exchange = self.questions[-1].exchange if exchange is None else exchange
        return self.happen(HelperSaid(self.helper, exchange, RevocationTold(crl=crl, ocsp=ocsp, detail=detail)))

    def use_radius(self, config="radius_authz 192.0.2.1\n"):
        """Read a configuration again that has servers besides, and have the helper there."""
        config = f"{self.config}radius_secret_file /etc/tlspool/radius.secrets\n{config}"
        self.happen(Reconfigured(parse_untrusted(config, Part.BROKER)))
        return self.radius_comes()

    def radius_comes(self):
        """The helper that speaks RADIUS says hello."""
        return self.happen(HelperSaid(self.radius, 0, RadiusHello(protocol=PROTOCOL, pid=55)))

    def radius_goes(self):
        return self.happen(HelperLost(self.radius, "radius has closed its end"))

    def radius_returns(self):
        """The first pause is over, and another helper says hello; ``asked`` is what that one was asked."""
        gone = self.radius
        self.later(PAUSE_MS[0])
        assert self.radius != gone
        self.asked.clear()
        return self.radius_comes()

    def radius_says(self, access=Access.ACCEPTED, *, exchange=None, **fields):
        """The helper answers the last question about access, or another one."""
        if exchange is None:
            exchange = self.access_asked()[-1].exchange
        told = AccessTold(access=access, **{**ACCEPTS, **fields})
        return self.happen(HelperSaid(self.radius, exchange, told))

    def radius_keeps(self, code=0, detail=""):
        """The helper answers all accounting records that it was given since the last time."""
        given, self.asked = self.asked, [one for one in self.asked if not isinstance(one.message, Account)]
        effects = []
        for one in given:
            if isinstance(one.message, Account):
                told = Accounted(code=int(code), detail=detail)
                effects += self.happen(HelperSaid(self.radius, one.exchange, told))
        self.effects = effects
        return effects

    def access_asked(self):
        """Return the questions about access that the helper was sent."""
        return [one for one in self.asked if isinstance(one.message, AskAccess)]

    def say(self, session_id, message=None, *, worker=None, **fields):
        """Let the worker of a session say something."""
        if isinstance(message, type):
            message = message(session_id=session_id, **{**DEFAULTS[message], **fields})
        if worker is None:
            worker = self.session(session_id).worker.number
        return self.happen(WorkerSaid(WorkerNumber(worker), message))

    # --- what came of it ------------------------------------------------------------------------------

    def session(self, session_id):
        return self.core.sessions.get(session_id)

    def state(self, session_id):
        session = self.session(session_id)
        return session.state.name if session else "OVER"

    def frames(self, app=None):
        """Return the frames that were sent to an application."""
        found = [effect for effect in self.effects if isinstance(effect, SendApp)]
        return [effect.frame for effect in found if app is None or effect.connection == app]

    def error(self, app=None):
        """Return (request id, code, text) of the one ERROR that was sent; nothing else was."""
        [frame] = self.frames(app)
        assert (frame.cmd, frame.cbid) == (Cmd.ERROR, 0), frame
        reply = ErrorReply.from_payload_untrusted(frame.payload)
        assert reply.tlserrno < 0
        return frame.reqid, int(reply.message[1:4]), reply.message

    def callback(self, app=None, cmd=Cmd.PLAINTEXT_CONNECT):
        """Return the one callback that was sent, and what is in it."""
        [frame] = self.frames(app)
        assert frame.cmd == cmd, frame
        assert frame.cbid
        return frame, Starttls.from_payload_untrusted(frame.payload)

    def reply(self, app=None):
        """Return the one final STARTTLS reply that was sent, and what is in it."""
        [frame] = self.frames(app)
        assert (frame.cmd, frame.cbid) == (Cmd.STARTTLS, 0), frame
        return frame, Starttls.from_payload_untrusted(frame.payload)

    def to_worker(self, *kinds):
        """Return the messages that were sent to workers, of these types; without types, all but what is to be kept."""
        messages = [effect.message for effect in self.effects if isinstance(effect, SendWorker)]
        return [one for one in messages if isinstance(one, kinds) or (not kinds and not isinstance(one, KeepRecord))]

    def spawned(self):
        """Return how many workers were asked for."""
        found = [effect.message for effect in self.effects if isinstance(effect, SendMaster)]
        return sum(message.count for message in found if isinstance(message, SpawnWorkers))

    def of(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def dropped(self):
        """Return whether each descriptor that was closed was shut down."""
        return [effect.shut for effect in self.of(DropFd)]

    def noted(self, event):
        """Return the fields of the log lines about an event, since the world began."""
        return [note.fields for note in self.notes if note.event == event]

    def timer(self, session_id):
        """Return in how many milliseconds a session runs out of time; None: never."""
        at = self.timers.get(Timer(Clock.SESSION, session_id))
        return None if at is None else at - self.now_ms

    def relaying(self, app, *, reqid=1, **fields):
        """Bring a session to where it relays."""
        session_id = self.starttls(app, reqid=reqid, **fields)
        self.say(session_id, ClientHelloSeen)
        self.say(session_id, HandshakeDone)
        frame, _ = self.callback(app)
        self.answer(app, frame)
        assert self.state(session_id) == "RELAYING"
        return session_id

    def answer(self, app, callback, *, cmd=None, reqid=None, cbid=None, passed=True, **identities):
        """Answer a callback, well unless told otherwise; ``localid`` and ``remoteid`` replace what is proposed."""
        payload = replace(Starttls.from_payload_untrusted(callback.payload), **identities).to_payload()
        return self.send(
            app,
            callback.cmd if cmd is None else cmd,
            payload,
            reqid=callback.reqid if reqid is None else reqid,
            cbid=callback.cbid if cbid is None else cbid,
            passed=self.fd() if passed is True else passed,
        )

    def close(self):
        kept = [fd for session in self.core.sessions for fd in (session.crypt, session.plain) if fd is not None]
        for fd in self.fds + kept:
            fd.close()


ACCEPTS = {
    "detail": "",
    "message": "",
    "user_name": "",
    "classes": (),
    "tags": (),
    "state": b"",
    "session_timeout_s": 0,
    "idle_timeout_s": 0,
    "interim_s": 0,
    "terminate": 0,
    "server": "192.0.2.1:1812",
    "elapsed_ms": 3,
}
"""AccessTold, but for ``access``."""

DEFAULTS = {
    ClientHelloSeen: {"sni": "localhost", "alpn": b""},
    HandshakeDone: {
        "tls_version": 0x0304,
        "cipher": "TLS_AES_256_GCM_SHA384",
        "group": "X25519MLKEM768",
        "alpn": b"",
        "sni": "localhost",
        "remote_verified": True,
        "remote_names": ("dns:www.example.com", "email:john@example.com"),
        "remote_subject": "CN=www.example.com",
        "remote_sha256": bytes(32),
    },
    RemoteShown: {
        "tls_version": 0x0304,
        "cipher": "TLS_AES_256_GCM_SHA384",
        "group": "X25519MLKEM768",
        "fault": 0,
        "detail": "",
        "anchor_sha256": hashlib.sha256(b"root").digest(),
        "self_signed": False,
        "names": ("dns:www.example.com", "email:john@example.com"),
        "subject": "CN=www.example.com",
        "leaf_sha256": bytes(32),
        "spki_sha256": bytes(32),
        "not_after_s": 2_000_000_000,
        "strengths": ("ec 256 sha256", "ec 384 sha384"),
        "usages": (),
        "extensions": (),
        "links": (f"{b'root'.ljust(20, b'.').hex()} 05",),
        "crl_urls": ("http://crl.example.com/root.crl",),
        "ocsp_urls": ("http://ocsp.example.com/",),
        "must_staple": False,
        "stapled": Finding.NONE,
        "stapled_detail": "",
        "chain": (b"leaf", b"root"),
    },
    HandshakeFailed: {"code": int(Code.REMOTE_CLOSED), "alert": 255, "detail": "it closed"},
    SessionEnded: {"reason": EndReason.CLEAN, "from_remote_b": 10, "to_remote_b": 20, "detail": ""},
}


def broken_database():
    return PoolError(Code.DATABASE, "/var/lib/tlspool/db: BDB0087")


def kept_of(session_id, worker_id, **fields):
    """Return what a worker keeps of a session of an earlier broker."""
    values = {
        "session_id": session_id,
        "worker_id": worker_id,
        "uid": 1000,
        "gid": 1000,
        "pid": 815,
        "certain": True,
        "unit": "postfix.service",
        "command": "smtpd",
        "request": Starttls(flags=SERVER, localid="localhost", service="smtp").to_payload(),
        "control": session_id.to_bytes(16, "big"),
        "side": Side.SERVER,
        "remote_auth": RemoteAuth.REQUIRE,
        "planned": "localhost",
        "localid": "localhost",
        "expected": "",
        "domain_represents_user": False,
        "generation": 7,
        "remoteid": "www.example.com",
        "started_ms": 1_000,
        "established_ms": 2_000,
        "access": b"",
        **{name: value for name, value in DEFAULTS[HandshakeDone].items() if name != "sni"},
        "sni": "localhost",
    }
    return Kept(**{**values, **fields})


def worlds(default: str):
    """The body of a fixture: yield what makes worlds whose broker has begun, and whose RADIUS helper is ``there``."""
    made = []

    def world_of(config: str = default, *, there: bool = True, **fields):
        world = World(config, **fields)
        made.append(world)
        world.happen(Began())
        if there:
            world.radius_comes()
        return world

    yield world_of
    for world in made:
        world.close()
