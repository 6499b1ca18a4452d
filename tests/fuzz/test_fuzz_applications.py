"""Invariant: whatever applications do over the socket of a whole pool, in any order,

- every request gets exactly one final reply, and nothing is said that is not owed (accounts.py has the rules);
- no session is stuck: when all are gone, there is none;
- no error is INTERNAL; no daemon, worker or channel is lost; no daemon keeps a descriptor;
- nobody else is disturbed: a session that relays all the while goes on.

A play is up to fifty moves of a few applications: requests that are right, nearly right and wrong, callbacks answered
well, wrongly, late, elsewhere or never, descriptors of every kind, connections that close, services, remotes that are
no good.  `make fuzz` does this for ten minutes: fuzz_applications.py.
"""

import random
import socket
import ssl
import threading
from inspect import signature

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import libstub
from tests.conformance.wires import Identities
from tests.fuzz.play import HEARD, Play, await_fds
from tests.fuzz.remotes import KINDS
from tlspool_admin.devpool import DevPool
from tlspool_common.appwire import Cmd

NUMBERS = st.integers(0, 1 << 16)
CHOICES = ("role", "flags", "well", "localid", "remoteid", "key", "timeout", "fds")
CHOICE = st.fixed_dictionaries(dict.fromkeys(CHOICES, NUMBERS))
APPS = st.integers(0, 3)
REQIDS = st.integers(0, 4)
MANNERS = ["well"] * 6 + ["elsewhere", "elsewhere", "without", "unfit", "error", "ping", "other", "change", "refuse"]
MANNERS += ["noise"]
ASKED = ["PING", "CONTROL_DETACH", "CONTROL_REATTACH", "PRNG", "INFO"]
SERVICES = ["PINENTRY", "LIDENTRY_REGISTER"]
VERBS = ["say", "say", "say", "end", "close"]
RULES = ["connect", "leave", "session", "session", "session_begun", "session_begun", "starttls", "ask", "ask", "ask"]
RULES += ["garbage", "serve", "answer", "answer", "answer_at_once", "late", "data", "data", "wait_for_something"]
SETTINGS = settings(
    max_examples=15,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,  # as far as a pool can be: the moves are the same each time.  `make fuzz` is for others
    phases=[Phase.generate],  # a pool is not rewound: a smaller play need not fail as the larger one did
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
CONFIG = ["log_level debug", "isolation pool", "workers 2"]
"""No spare workers, so that descriptors can be counted."""


class Applications(RuleBasedStateMachine):
    """Hypothesis chooses the moves."""

    pool: DevPool
    identities: Identities
    canary: "Canary"
    moves = 0
    plays = 0

    @initialize()
    def begin(self):
        self.play = Play(self.pool, self.identities)
        self.play.connect()

    # No preconditions: what has come by now depends on the pool, and hypothesis wants the same choice each time.

    @rule()
    def connect(self):
        if len(self.play.apps) < 4:
            self.play.connect()

    @rule(number=APPS, half=st.booleans(), chance=st.integers(0, 3))
    def leave(self, number, half, chance):
        if chance == 0:
            self.play.leave(number, half=half)

    @rule(number=APPS, reqid=REQIDS, choice=CHOICE)
    def session(self, number, reqid, choice):
        self.play.session(number, reqid, choice, finish=True)

    @rule(number=APPS, reqid=REQIDS, choice=CHOICE)
    def session_begun(self, number, reqid, choice):
        self.play.session(number, reqid, choice, finish=False)
        self.play.catch_up()

    @rule(number=APPS, reqid=REQIDS, kind=st.sampled_from(KINDS), choice=CHOICE)
    def starttls(self, number, reqid, kind, choice):
        self.play.starttls(number, reqid, kind, choice)

    @rule(
        number=APPS,
        reqid=REQIDS,
        cmd=st.sampled_from(ASKED),
        key=NUMBERS,
        variant=st.integers(0, 1 << 16),
    )
    def ask(self, number, reqid, cmd, key, variant):
        self.play.ask(number, reqid, cmd, key, variant)

    @rule(
        number=APPS,
        reqid=REQIDS,
        cmd=st.one_of(st.sampled_from([int(cmd) for cmd in Cmd]), st.integers(0, 0xFFFFFFFF)),
        cbid=st.one_of(st.just(0), st.integers(1, 0xFFFF)),
        payload=st.binary(min_size=0, max_size=380),
        fd=st.booleans(),
    )
    def garbage(self, number, reqid, cmd, cbid, payload, fd):
        self.play.garbage(number, reqid, cmd, cbid, payload, fd=fd)

    @rule(number=APPS, reqid=REQIDS, what=st.sampled_from(SERVICES), timeout=NUMBERS)
    def serve(self, number, reqid, what, timeout):
        if timeout % 4 == 0:
            self.play.serve(number, reqid, what, timeout)

    @rule(which=NUMBERS, manner=st.sampled_from(MANNERS), reqid=REQIDS)
    def answer(self, which, manner, reqid):
        self.play.catch_up()
        self.play.answer(which, manner, reqid)

    @rule(which=NUMBERS, manner=st.sampled_from(MANNERS), reqid=REQIDS)
    def answer_at_once(self, which, manner, reqid):
        self.play.answer(which, manner, reqid)

    @rule(number=APPS, cbid=st.integers(1, 0xFFFF), reqid=REQIDS)
    def late(self, number, cbid, reqid):
        self.play.late(number, cbid, reqid)

    @rule(which=NUMBERS, size_b=st.integers(1, 40_000), verb=st.sampled_from(VERBS))
    def data(self, which, size_b, verb):
        self.play.data(which, size_b, verb)

    @rule()
    def wait_for_something(self):
        """Let the pool catch up: a callback or a reply that is owed comes, or the remotes have nothing to say."""
        self.play.catch_up()

    @invariant()
    def nothing_is_said_that_is_not_owed(self):
        if hasattr(self, "play"):
            self.play.pump()

    def teardown(self):
        if not hasattr(self, "play"):
            return
        try:
            self.play.settle()
        finally:
            self.play.end()
        self.canary.check()
        type(self).moves += self.play.moves
        type(self).plays += 1


def walk(machine, seed, steps=60):
    """Take the rules evenly, by chance.  Hypothesis finds what is near; this goes far."""
    chance = random.Random(seed)
    one = {
        "choice": lambda: {name: chance.randrange(1 << 16) for name in CHOICES},
        "number": lambda: chance.randrange(4),
        "reqid": lambda: chance.randrange(5),
        "chance": lambda: chance.randrange(4),
        "kind": lambda: chance.choice(KINDS),
        "manner": lambda: chance.choice(MANNERS),
        "what": lambda: chance.choice(SERVICES),
        "verb": lambda: chance.choice(VERBS),
        "cbid": lambda: chance.choice([0, chance.randrange(1, 1 << 16)]),
        "cmd": lambda: chance.choice([int(cmd) for cmd in Cmd] + [chance.randrange(1 << 32)]),
        "payload": lambda: chance.randbytes(chance.randrange(381)),
        "fd": lambda: chance.random() < 0.5,
        "half": lambda: chance.random() < 0.5,
        "size_b": lambda: chance.randint(1, 40_000),
    }
    playing = machine()
    playing.begin()
    name, choices = "", {}
    try:
        for _ in range(steps):
            name = chance.choice(RULES)
            taken = getattr(playing, name)
            choices = {word: one.get(word, lambda: chance.randrange(1 << 16))() for word in signature(taken).parameters}
            if name == "ask":
                choices["cmd"] = chance.choice(ASKED)
            taken(**choices)
            playing.play.pump()
        name = "teardown"
    except AssertionError as error:
        playing.play.end()
        raise AssertionError(f"walk {seed}: {name} {choices}: {error}") from None
    playing.teardown()


class Canary:
    """Somebody else's session."""

    def __init__(self, pool, identities):
        self._pool = libstub.Pool(str(pool.socket))
        one, other = socket.socketpair()
        context = ssl.create_default_context(cafile=pool.directory / "ca.pem")
        found = []
        thread = threading.Thread(
            target=lambda: found.append(context.wrap_socket(other, server_hostname="localhost")), daemon=True
        )
        thread.start()
        options = {"localid": "localhost", "remote_auth": "ignore", "fork": True}
        self._session = libstub.starttls_server(one, pool=self._pool, **options)
        thread.join(20)
        self._remote = found[0]
        self._session.detach()
        self._pool.close()

    def check(self):
        """It relays in both directions."""
        self._session.sock.sendall(b"ping")
        assert self._remote.recv(16) == b"ping"
        self._remote.sendall(b"pong")
        assert self._session.sock.recv(16) == b"pong"

    def close(self):
        self._remote.close()
        self._session.close()


def machine_for(pool):
    """Return (machine, canary) for a pool that is up."""
    identities = Identities(pool)
    canary = Canary(pool, identities)
    return type("Played", (Applications,), {"pool": pool, "identities": identities, "canary": canary}), canary


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    made = DevPool(tmp_path_factory.mktemp("fuzz") / "p")
    made.up("ec", CONFIG)
    yield made
    made.down()


def test_applications_that_do_anything(pool, no_leaks):
    machine, canary = machine_for(pool)
    try:
        walk(machine, 0)  # everything is warm then
        before = await_fds(pool)
        run_state_machine_as_test(machine, settings=SETTINGS)
        for seed in range(20):
            walk(machine, seed)
        assert await_fds(pool, before) == before
    finally:
        canary.close()
    # it is no evidence if all they ever heard was the first refusal
    assert set(HEARD) >= {"STARTTLS", "STARTTLS_LOCALID", "PLAINTEXT_CONNECT", "SUCCESS", "PING"}, HEARD
    assert set(HEARD) & {"PRNG", "INFO"}, HEARD
