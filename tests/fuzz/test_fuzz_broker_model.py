"""Invariant: the broker's core says what the model says, no more and no less, whatever applications do in any order;
and when all are gone, nothing is left.

The model (model.py) is the specification told a second time.  For more of it: BROKER_FUZZ_PLAYS=2000, or
BROKER_FUZZ_WALKS=1000.
"""

import inspect
import os
import random
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.fuzz.model import Model, Session, Stage
from tests.playbook.broker import World, credential
from tlspool_broker.events import KillAsked, SendWorker, SessionId, WorkerSaid
from tlspool_common.appwire import Cmd, Control, ErrorReply, Flag, Ping, Starttls
from tlspool_common.errors import Code
from tlspool_common.messages import (
    ClientHelloSeen,
    EndReason,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    RemoteShown,
    SessionEnded,
    Side,
)

KEYS = st.integers(1, 5)
REQIDS = st.integers(0, 3)
WHICH = st.integers(0, 1000)
MANNERS = ["well", "well", "well", "bare", "error", "other", "refuse", "change", "nobody"]
UNKNOWN = [0x11, 0xFFFFFFFF, Cmd.SUCCESS, Cmd.PLAINTEXT_CONNECT]
ANSWERS = ["ERROR", "PLAINTEXT_CONNECT", "STARTTLS_LOCALID"]


class Obedient(World):
    """Its workers end sessions as soon as they are told to."""

    def __init__(self):
        super().__init__("isolation pool\nhandshake_timeout_s 30\ncallback_timeout_s 60\n", workers=1)
        self.records.identities["www.example.com", Side.SERVER] = [credential("www.example.com")]

    def happen(self, event):
        effects = list(super().happen(event))
        told = [one for one in effects if isinstance(one, SendWorker) and isinstance(one.message, EndSession)]
        for one in told:
            effects += super().happen(self._ended(one))
        self.effects = effects
        return effects

    @staticmethod
    def _ended(told):
        number = told.message.session_id
        words = SessionEnded(session_id=number, reason=EndReason.ORDERED, from_remote_b=0, to_remote_b=0, detail="")
        return WorkerSaid(told.worker, words)


class BrokerAndModel(RuleBasedStateMachine):
    """Every rule does one thing to both, and compares."""

    apps = Bundle("apps")
    reached: ClassVar[Counter] = Counter()

    def __init__(self):
        super().__init__()
        self.world = Obedient()
        self.model = Model()
        self.ids = {}
        self.cbids = []
        self.judged = None

    @initialize(target=apps)
    def first(self):
        return self._connect()

    @rule(target=apps)
    def connect(self):
        return self._connect()

    def _connect(self):
        app = self.world.app()
        self.model.connected(app)
        return app

    def _there(self, app):
        return app in self.model.apps

    def _same(self, expected):
        """What was sent is what the model says; learn the callback ids."""
        sent = []
        for effect in self.world.effects:
            if type(effect).__name__ != "SendApp":
                continue
            frame = effect.frame
            what = Cmd(frame.cmd).name
            if frame.cmd == Cmd.ERROR:
                what = Code(int(ErrorReply.from_payload_untrusted(frame.payload).message[1:4]))
            if what in ("STARTTLS_LOCALID", "PLAINTEXT_CONNECT"):
                assert frame.cbid, frame
                assert (effect.connection, frame.cbid) not in self.cbids
                self.cbids.append((effect.connection, frame.cbid))
                [session] = [
                    one
                    for one in self.model.sessions
                    if (one.app, one.reqid) == (effect.connection, frame.reqid) and one.waits
                ]
                session.cbid = frame.cbid
            else:
                assert frame.cbid == 0, frame
            sent.append((effect.connection, frame.reqid, what))
            self.reached[what] += 1
        assert sent == expected, (sent, expected)
        assert len(self.world.core.sessions) == len(self.model.sessions)

    # --- applications ---------------------------------------------------------------------------------

    @rule(app=apps)
    def gone(self, app):
        if self._there(app) and len(self.model.apps) > 1:
            self.world.gone(app)
            self._same(self.model.gone(app))

    @rule(app=apps, reqid=REQIDS, cbid=st.sampled_from([0, 0, 60_000]))
    def ping(self, app, reqid, cbid):
        if self._there(app):
            self.world.send(app, Cmd.PING, Ping("x", 1).to_payload(), reqid=reqid, cbid=cbid)
            self._same(self.model.request(app, reqid, "PING"))

    @rule(app=apps, reqid=REQIDS, cmd=st.sampled_from(UNKNOWN))
    def unknown(self, app, reqid, cmd):
        if self._there(app):
            self.world.send(app, cmd, b"\xff" * 380, reqid=reqid, passed=self.world.fd())
            self._same(self.model.request(app, reqid, Code.COMMAND_UNKNOWN))

    @rule(
        app=apps,
        reqid=REQIDS,
        key=KEYS,
        server=st.booleans(),
        check=st.booleans(),
        extra=st.sampled_from([0, 0, Flag.FORK, Flag.DETACH, Flag.FORK | Flag.DETACH]),
        fd=st.sampled_from([True, True, True, False]),
    )
    def starttls(self, app, reqid, key, server, check, extra, fd):
        if not self._there(app):
            return
        session = Session(
            app, reqid, key, server, check, bool(extra & Flag.FORK), bool(extra & Flag.DETACH), Stage.HELLO
        )
        if not server:
            session.stage = Stage.HANDSHAKE
        else:
            session.judged = self.judged
        fields = {"flags": (0x6 if server else 0x9) | extra | (Flag.LOCALID_CHECK if check else 0)}
        fields |= {"localid": "localhost" if server and not check else "", "ctlkey": bytes([key]) * 16}
        fields |= {"remoteid": "" if server else "www.example.com", "service": "fuzz"}
        payload = Starttls(**fields).to_payload()
        self.world.send(app, Cmd.STARTTLS, payload, reqid=reqid, passed=self.world.fd() if fd else None)
        expected = self.model.starttls(session, fd=fd)
        if session in self.model.sessions:
            self.ids[session] = max(one.session_id for one in self.world.core.sessions)
        self._same(expected)

    @rule(app=apps, reqid=REQIDS, key=KEYS, detach=st.booleans())
    def control(self, app, reqid, key, detach):
        if self._there(app):
            cmd = Cmd.CONTROL_DETACH if detach else Cmd.CONTROL_REATTACH
            self.world.send(app, cmd, Control(bytes([key]) * 16).to_payload(), reqid=reqid)
            self._same(self.model.control(app, reqid, key, detach=detach))

    @rule(which=WHICH, detach=st.booleans())
    def control_of_a_session(self, which, detach):
        for _ in range(6):
            if not self.model.of_stage(Stage.RELAYING):
                self._go_on(which)
        relaying = self.model.of_stage(Stage.RELAYING)
        if relaying:
            session = relaying[which % len(relaying)]
            apps = list(self.model.apps)
            app = session.controller
            if app is None or which % 2:
                app = apps[which // 2 % len(apps)]
            cmd = Cmd.CONTROL_DETACH if detach else Cmd.CONTROL_REATTACH
            self.world.send(app, cmd, Control(bytes([session.key]) * 16).to_payload(), reqid=which % 4)
            self._same(self.model.control(app, which % 4, session.key, detach=detach))

    @rule(
        which=WHICH,
        manner=st.sampled_from(MANNERS),
        reqid=st.one_of(st.none(), REQIDS),
    )
    def answer(self, which, manner, reqid):
        for step in range(4):
            if not self.model.open_callbacks():
                self._go_on(which + step, answers=False)
        found = self.model.open_callbacks()
        if not found:
            return
        session = found[which % len(found)]
        proposed = "localhost" if session.server else "me.example"
        localid, fd, cmd = proposed, True, "PLAINTEXT_CONNECT"
        if session.stage is Stage.PROPOSED:
            cmd, fd = "STARTTLS_LOCALID", which % 2 == 0
        match manner:
            case "bare":
                fd = False
            case "error":
                cmd = "ERROR"
            case "other":
                cmd = "PING"
            case "refuse":
                localid, fd = "", False
            case "change":
                localid, fd = ("www.example.com" if session.server else proposed), False
            case "nobody":
                localid, fd = "nobody.example", False
        number = reqid if reqid is not None else session.reqid if session.reqid is not None else 3
        self._answer(session.app, number, session.cbid, cmd, localid, fd)

    def _answer(self, app, reqid, cbid, cmd, localid, fd):
        payload = Starttls(flags=0x6, localid=localid).to_payload()
        passed = self.world.fd() if fd else None
        self.world.send(app, Cmd[cmd], payload, reqid=reqid, cbid=cbid, passed=passed)
        self._same(self.model.answer(app, reqid, cbid, cmd, localid, fd=fd))

    @rule(app=apps, which=WHICH, reqid=REQIDS, cmd=st.sampled_from(ANSWERS))
    def late_or_stray(self, app, which, reqid, cmd):
        open_cbids = {session.cbid for session in self.model.sessions if session.app == app}
        cbids = [cbid for owner, cbid in self.cbids if owner == app and cbid not in open_cbids]
        if self._there(app) and cbids:
            self._answer(app, reqid, cbids[which % len(cbids)], cmd, "localhost", which % 2 == 0)

    # --- workers, operators, time ---------------------------------------------------------------------

    def _one(self, stage, which):
        found = self.model.of_stage(stage)
        return found[which % len(found)] if found else None

    def _say(self, session, message, **fields):
        self.world.say(self.ids[session], message, **fields)

    @rule(which=WHICH)
    def hello(self, which):
        session = self._one(Stage.HELLO, which)
        if session:
            self._say(session, ClientHelloSeen)
            self._same(self.model.hello(session))

    @rule(which=WHICH)
    def demand(self, which):
        """An operator changes the expression of our servers.  What was begun goes by the one before."""
        self.judged = [None, True, False][which % 3]
        text = {None: "1", True: "F", False: "C"}[self.judged]
        names = ("localhost", "www.example.com")
        self.world.records.change(expressions={(name, Side.SERVER): text for name in names})

    def _finish(self, session):
        """The end of a handshake, or what comes before it."""
        if session.judged is not None and not session.shown:
            self._say(session, RemoteShown)
            self._same(self.model.shows(session))
        else:
            self._say(session, HandshakeDone)
            self._same(self.model.done(session))

    @rule(which=WHICH)
    def done(self, which):
        session = self._one(Stage.HANDSHAKE, which)
        if session:
            self._finish(session)

    @rule(which=WHICH)
    def alerted(self, which):
        session = self._one(Stage.ALERT, which)
        if session:
            self._say(session, HandshakeFailed)
            self._same(self.model.alerted(session))

    @rule(which=WHICH)
    def failed(self, which):
        found = [one for one in self.model.sessions if one.stage in (Stage.HELLO, Stage.HANDSHAKE, Stage.PLAINTEXT)]
        session = found[which % len(found)] if found else None
        if session and which % 3 == 0:
            self._say(session, HandshakeFailed)
            self._same(self.model.failed(session))

    @rule(which=WHICH)
    def ended(self, which):
        session = self._one(Stage.RELAYING, which)
        if session:
            self._say(session, SessionEnded)
            self._same(self.model.ended(session))

    @rule(which=WHICH)
    def killed(self, which):
        if self.model.sessions and which % 4 == 0:
            session = self.model.sessions[which % len(self.model.sessions)]
            self.world.happen(KillAsked(SessionId(self.ids[session])))
            self._same(self.model.killed(session))

    def _go_on(self, which, *, answers=True):
        """What leads a session on, if all goes well."""
        found = [session for session in self.model.sessions if session.stage is not Stage.RELAYING]
        if not found:
            return
        session = found[which % len(found)]
        if session.stage is Stage.HELLO:
            self._say(session, ClientHelloSeen)
            self._same(self.model.hello(session))
        elif session.stage is Stage.HANDSHAKE:
            self._finish(session)
        elif session.stage is Stage.ALERT:
            self._say(session, HandshakeFailed)
            self._same(self.model.alerted(session))
        elif answers and session.cbid is not None and session.reqid is not None:
            cmd, localid = "PLAINTEXT_CONNECT", "localhost" if session.server else "me.example"
            if session.stage is Stage.PROPOSED:
                cmd = "STARTTLS_LOCALID"
            self._answer(session.app, session.reqid, session.cbid, cmd, localid, cmd[0] == "P" or which % 2 == 0)

    @rule(which=WHICH)
    def go_on(self, which):
        self._go_on(which)

    @rule(which=WHICH, steps=st.integers(2, 8))
    def go_on_for_a_while(self, which, steps):
        for step in range(steps):
            self._go_on(which + step // 3)

    # --- always ---------------------------------------------------------------------------------------

    @invariant()
    def controllers_agree(self):
        for session in self.model.of_stage(Stage.RELAYING):
            controller = self.world.session(self.ids[session]).controller
            assert (controller and controller.connection_id) == session.controller

    @invariant()
    def no_bugs(self):
        assert not [note for note in self.world.notes if note.level == "error"]
        self.world.notes.clear()

    def teardown(self):
        try:
            for app in list(self.model.apps):
                self.world.gone(app)
                self._same(self.model.gone(app))
            for session in list(self.model.sessions):
                self._say(session, SessionEnded)
                self._same(self.model.ended(session))
            assert len(self.world.core.sessions) == len(self.world.core.connections) == 0
        finally:
            self.world.close()


PLAYS = int(os.environ.get("BROKER_FUZZ_PLAYS", "60"))
WALKS = int(os.environ.get("BROKER_FUZZ_WALKS", "15"))
RULES = ["connect", "gone", "ping", "unknown", "starttls", "starttls", "control", "control_of_a_session", "answer"]
RULES += [
    "answer",
    "late_or_stray",
    "hello",
    "demand",
    "done",
    "alerted",
    "failed",
    "ended",
    "killed",
    "go_on",
    "go_on",
    "go_on_for_a_while",
]
SETTINGS = settings(
    max_examples=PLAYS,
    stateful_step_count=60,
    deadline=None,
    database=None,
    derandomize=True,  # what the test run reaches is the same each time; `make fuzz` is for the rest
    suppress_health_check=list(HealthCheck),
)
CODES = {Code.COMMAND_UNKNOWN, Code.CIPHER_FD_MISSING, Code.CTLKEY_IN_USE, Code.CTLKEY_UNKNOWN, Code.CTLKEY_ATTACHED}
CODES |= {Code.CTLKEY_NOT_YOURS, Code.BAD_CALLBACK_ANSWER, Code.PLAIN_FD_MISSING, Code.LOCALID_REFUSED}
CODES |= {Code.LOCALID_UNKNOWN, Code.LOCALID_NOT_DISCLOSED, Code.REMOTE_CLOSED, Code.SESSION_KILLED}
CODES |= {Code.VALIDATION_FAILED}


def test_the_broker_says_what_the_model_says(no_leaks):
    run_state_machine_as_test(BrokerAndModel, settings=SETTINGS)


def walk(seed, steps=200):
    """Take the rules evenly, by chance.  Hypothesis finds what is near; this goes far."""
    chance = random.Random(seed)
    machine = BrokerAndModel()
    machine.first()
    one = {
        "app": lambda: chance.choice(list(machine.model.apps)),
        "reqid": lambda: chance.randrange(4),
        "cbid": lambda: chance.choice([0, 0, 60_000]),
        "key": lambda: chance.randint(1, 5),
        "which": lambda: chance.randrange(1000),
        "steps": lambda: chance.randint(2, 8),
        "fd": lambda: chance.random() < 0.9,
        "extra": lambda: chance.choice([0, 0, Flag.FORK, Flag.DETACH, Flag.FORK | Flag.DETACH]),
        "manner": lambda: chance.choice(MANNERS),
    }
    cmds = {"unknown": UNKNOWN, "late_or_stray": ANSWERS}
    for step in range(steps):
        name = chance.choice(RULES)
        if name == "gone" and chance.random() < 0.7:
            continue
        rule_of = getattr(machine, name)
        wanted = inspect.signature(rule_of).parameters
        choices = {
            word: chance.choice(cmds[name]) if word == "cmd" else one.get(word, lambda: chance.random() < 0.5)()
            for word in wanted
        }
        try:
            rule_of(**choices)
            machine.controllers_agree()
            machine.no_bugs()
        except AssertionError as error:
            machine.world.close()
            raise AssertionError(f"walk {seed}, step {step}: {name} {choices}: {error}") from None
    machine.teardown()


@pytest.mark.parametrize("seed", range(WALKS))
def test_walks(no_leaks, seed):
    walk(seed)


def test_the_walks_get_about(no_leaks):
    """It is no evidence if all they ever get is the first refusal."""
    BrokerAndModel.reached.clear()
    for seed in range(12):
        walk(seed)
    said = {"STARTTLS", "STARTTLS_LOCALID", "PLAINTEXT_CONNECT", "SUCCESS", "PING"} | CODES
    assert said <= set(BrokerAndModel.reached), said - set(BrokerAndModel.reached)
