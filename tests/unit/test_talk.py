"""Conversations before TLS over real sockets: who is slow, who leaves, who does not read."""

import contextlib
import socket
import time

import pytest

from tlspool_admin.preambles.script import Dialogue, Fail, NeedUntil, Say, Secure, Side
from tlspool_admin.talk import Talk, converse

C, P = Side.CRYPT, Side.PLAIN

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    theirs.settimeout(15)
    with ours, theirs:
        yield ours, theirs


def greet(*, size_b=5):
    """A script: greet, hear a line, say a word."""
    yield Say(C, b"h" * size_b)
    line = yield NeedUntil(C)
    yield Say(C, b"bye")
    return line


def start(sock, script, time_s=15.0):
    return Talk(Dialogue(script), {C: sock}, time_s)


@pytest.mark.parametrize("timeout_s", [None, 0.0, 5.0])
def test_a_conversation(pair, timeout_s):
    ours, theirs = pair
    ours.settimeout(timeout_s)
    theirs.sendall(b"hello\n")
    assert converse(start(ours, greet())) == Secure(b"hello\n")
    assert theirs.recv(100) == b"hhhhhbye"
    assert ours.gettimeout() == timeout_s


def test_nothing_is_waited_for(pair):
    ours, theirs = pair
    talk = start(ours, greet())
    assert talk.step() is None
    assert list(talk.interests) == [ours.fileno()]
    assert theirs.recv(100) == b"hhhhh"
    theirs.sendall(b"x")
    assert talk.step() is None
    theirs.sendall(b"\n")
    assert talk.step() == Secure(b"x\n")
    assert talk.interests == {}


def test_who_leaves(pair):
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    assert converse(start(ours, greet())) == Fail(C, "the remote closed the connection")


def test_who_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            outcome = converse(start(ours, greet()))
    assert isinstance(outcome, Fail)
    assert "is gone" in outcome.text


def test_who_is_gone_before_the_last_word(pair):
    ours, theirs = pair
    theirs.sendall(b"x\n")
    talk = start(ours, greet())
    theirs.close()
    outcome = converse(talk)
    assert isinstance(outcome, Fail)
    assert "is gone" in outcome.text


def test_who_is_silent(pair):
    outcome = converse(start(pair[0], greet(), 0.05))
    assert outcome == Fail(C, "the remote took too long to agree on TLS")


def test_who_does_not_read(pair):
    ours, theirs = pair
    theirs.sendall(b"x\n")
    began_s = time.monotonic()
    outcome = converse(start(ours, greet(size_b=10_000_000), 0.1))
    assert isinstance(outcome, Fail)
    assert time.monotonic() - began_s < 5


def test_an_agreement_that_cannot_be_said_is_none(pair):
    """The last word goes to somebody who does not read."""
    ours, theirs = pair

    def script():
        yield NeedUntil(C)
        yield Say(C, bytes(10_000_000))
        return b""

    theirs.sendall(b"x\n")
    outcome = converse(start(ours, script(), 0.1))
    assert outcome == Fail(C, "the remote does not read what it is told")


def test_two_sides():
    def script():
        line = yield NeedUntil(P)
        yield Say(C, line)
        line = yield NeedUntil(C)
        yield Say(P, line)
        return b""

    with contextlib.ExitStack() as stack:
        socks, others = {}, {}
        for side in Side:
            socks[side], others[side] = (stack.enter_context(sock) for sock in socket.socketpair())
        others[C].sendall(b"second\n")
        others[P].sendall(b"first\n")
        assert converse(Talk(Dialogue(script()), socks)) == Secure(b"")
        assert others[C].recv(100) == b"first\n"
        assert others[P].recv(100) == b"second\n"
