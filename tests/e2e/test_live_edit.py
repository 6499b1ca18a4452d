"""Three tools change the databases all the time while sessions are set up: no error, no stall, one generation each.

The broker is real, with its databases and sockets; the test is the applications, the worker and keyd.  A change writes
the credential and the expression of an identity in one go, so that a session which had one of an older and the other of
a newer generation would be seen.
"""

import base64
import bisect
import contextlib
import hashlib
import os
import socket
import threading
import time

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_broker import LoneBroker, await_message, await_received, end, facts, starttls
from tlspool_admin.client import ask
from tlspool_common.appwire import Cmd, Frame
from tlspool_common.channel import ChannelClosed
from tlspool_common.messages import (
    ClientHelloSeen,
    Finding,
    KeyAnswer,
    PlainConnected,
    Proceed,
    RemoteShown,
    StartSession,
    UseCredential,
    Verdict,
)

SECONDS = float(os.environ.get("LIVE_EDIT_SECONDS", "3"))
EACH_S = 1 / 34
"""Between two changes of one tool: a hundred a second are three tools' together."""


class Tool(threading.Thread):
    """An operator's program: it takes turns with what it writes, and keeps which generation has what."""

    def __init__(self, control, writes):
        super().__init__(daemon=True)
        self._control = control
        self._writes = writes
        self.over = threading.Event()
        self.generations, self.states, self.waits = [], [], []
        self.error = None

    def run(self):
        number, due = 0, time.monotonic()
        try:
            while not self.over.is_set():
                state, request = self._writes[number % len(self._writes)]
                began = time.monotonic()
                answer = ask(self._control, request)
                self.waits.append(time.monotonic() - began)
                assert answer["ok"], answer
                self.generations.append(answer["generation"])
                self.states.append(state)
                number, due = number + 1, due + EACH_S
                self.over.wait(max(0, due - time.monotonic()))
        except Exception as error:
            self.error = error

    def at(self, generation):
        """Return what this tool had written in a generation."""
        place = bisect.bisect_right(self.generations, generation)
        return self.states[place - 1] if place else None


def answer_keyd(channel, over):
    """keyd: every key exists, and nothing is known of it."""
    with contextlib.suppress(ChannelClosed):
        while not over.is_set():
            with contextlib.suppress(AssertionError), await_received(channel, 0.5) as received:
                if hasattr(received.message, "uri"):
                    channel.send(KeyAnswer(code=0, detail="", spki=b""), exchange=received.exchange)


def shown(session_id):
    return RemoteShown(
        session_id=session_id, tls_version=0x0304, cipher="TLS_AES_256_GCM_SHA384", group="X25519MLKEM768", fault=0,
        detail="", anchor_sha256=hashlib.sha256(certs.root().der).digest(), self_signed=False,
        names=("email:testsrv@tlspool.arpa2.lab",), subject="CN=testsrv", leaf_sha256=bytes(32), spki_sha256=bytes(32),
        not_after_s=1 << 32, strengths=("ec 256 sha256",), usages=(), extensions=(), links=("00 01",), crl_urls=(),
        ocsp_urls=(), must_staple=False, stapled=Finding.NONE, stapled_detail="", chain=(),
    )  # fmt: skip


def one_session(app, worker, reqid):
    """Set up a session and end it; return its number and the certificate that was shown."""
    plain, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        crypt = stack.enter_context(socket.create_connection(listener.getsockname()))
        for one in (plain, theirs, listener.accept()[0]):
            stack.enter_context(one)
        app.send(starttls(reqid, localid="localhost"), crypt.fileno())
        start = await_message(worker, StartSession)
        session_id = start.session_id
        worker.send(ClientHelloSeen(session_id=session_id, sni="localhost", alpn=b""))
        use = await_message(worker, UseCredential)
        await_message(worker, Proceed)
        assert start.asks
        worker.send(shown(session_id))
        verdict = await_message(worker, Verdict)
        assert verdict.code == 0, verdict
        worker.send(facts(session_id))
        callback = app.frame()
        assert callback.cmd == Cmd.PLAINTEXT_CONNECT, callback
        app.send(Frame(reqid, callback.cbid, callback.cmd, callback.payload).to_bytes(), theirs.fileno())
        assert app.frame().cmd == Cmd.STARTTLS
        await_message(worker, PlainConnected)
        end(worker, session_id)
    return session_id, use.chain[0]


@pytest.fixture
def broker(no_leaks):
    with LoneBroker("isolation pool", "workers 1", "log_level info") as made:
        yield made


def test_changes_while_sessions_are_set_up(broker):
    keyd, _, worker = broker.staffed()
    root = base64.b64encode(certs.root().der).decode()
    leaves = {text: certs.root().issue("localhost", "p256").der for text in ("F", "A")}
    over = threading.Event()
    threading.Thread(target=answer_keyd, args=(keyd, over), daemon=True).start()

    def be(text):
        chain = [base64.b64encode(leaves[text]).decode()]
        records = [{"uri": "pkcs11:object=localhost", "chain": chain}]
        flags = "x509,client,server"
        operations = [
            {"cmd": "localid.set", "id": "localhost", "flags": flags, "records": records},
            {"cmd": "localid.set", "id": "localhost", "flags": "valexp,server", "records": [{"uri": text}]},
        ]
        return text, {"cmd": "batch", "operations": operations}

    def trust(text):
        return text, {"cmd": "trust.set", "flags": "x509,client,server", "valexp": text, "data": root}

    def disclose(selector):
        return selector, {"cmd": "disclose.set", "selector": selector, "ids": ["testcli@tlspool.arpa2.lab"]}

    tools = [
        Tool(broker.control, [be("F"), be("A")]),
        Tool(broker.control, [trust("a"), trust("1"), trust("T")]),
        Tool(broker.control, [disclose("@.a.example"), disclose("@.b.example")]),
    ]
    for _, request in (be("F"), trust("a")):
        assert broker.ask(**request)["ok"]
    app, sessions, slowest = broker.app(), [], 0.0
    for tool in tools:
        tool.start()
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        before = time.monotonic()
        session_id, leaf = one_session(app, worker, len(sessions) % 60000)
        slowest = max(slowest, time.monotonic() - before)
        sessions.append((session_id, leaf))
    spent = time.monotonic() - began
    for tool in tools:
        tool.over.set()
        tool.join(20)
        assert tool.error is None, tool.error
    over.set()
    changes = sum(len(tool.generations) for tool in tools)
    print(f"{len(sessions) / spent:.0f} sessions/s, {changes / spent:.0f} changes/s, slowest session {slowest:.3f} s")

    identity, trusted, _ = tools
    generations = set()
    for session_id, leaf in sessions[-900:]:
        account = broker.ask("explain", session=session_id)
        assert account["outcome"] == "accepted"
        texts = {line["name"].split()[0]: line["text"] for line in account["trace"] if line["kind"] == "source"}
        generation = account["generation"]
        generations.add(generation)
        assert leaf == leaves[texts["localid"]], account
        assert texts["localid"] == (identity.at(generation) or "F"), account
        assert texts["trust"] == (trusted.at(generation) or "a"), account
    assert len(generations) > 10
    assert "ERROR" not in broker.log
    assert slowest < 5
