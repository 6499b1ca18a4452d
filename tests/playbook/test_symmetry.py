"""Two ends in the peer role: they agree on who is the client, whatever is on the wire and however it is cut."""

import contextlib
import itertools
import os
import random

import pytest

from tlspool_common.errors import Code
from tlspool_worker.client_hello import HelloRefused
from tlspool_worker.symmetry import IsClient, IsServer, Symmetry


def hello(fill, session_id=b"", extensions=b""):
    body = b"\x03\x03" + bytes([fill] * 32) + bytes([len(session_id)]) + session_id + b"\0\x02\x13\x01\x01\0"
    body += len(extensions).to_bytes(2) + extensions
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


SERVER_HELLO = b"\x16\x03\x03\0\x06\x02\0\0\x02\x03\x03"
ALERT = b"\x15\x03\x03\0\x02\x02\x28"


def fed(symmetry, data, size):
    """Give data in pieces; return the verdict, and how much was given by then."""
    for at in range(0, len(data), size):
        verdict = symmetry.heard_untrusted(data[at : at + size])
        if verdict is not None:
            return verdict, at + size
    return None, len(data)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 1000])
def test_a_client_that_speaks_first_is_answered_by_a_server(size):
    symmetry = Symmetry()
    assert not symmetry.has_heard
    verdict, _ = fed(symmetry, hello(7), size)
    assert isinstance(verdict, IsServer)
    assert verdict.data == hello(7)
    assert verdict.hello.random == bytes([7] * 32)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 1000])
@pytest.mark.parametrize("answer", [SERVER_HELLO, ALERT], ids=["ServerHello", "alert"])
def test_a_server_that_answers_is_answered_by_a_client(answer, size):
    symmetry = Symmetry()
    symmetry.spoke(hello(7))
    verdict, given = fed(symmetry, answer, size)
    assert verdict == IsClient(answer[:given])  # OpenSSL gets every byte


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 1000])
def test_of_two_that_cross_the_greater_random_is_the_client(size):
    small, great = Symmetry(), Symmetry()
    small.spoke(hello(3))
    great.spoke(hello(4))
    assert isinstance(fed(small, hello(4), size)[0], IsServer)
    verdict, given = fed(great, hello(3) + SERVER_HELLO, size)
    assert verdict == IsClient((hello(3) + SERVER_HELLO)[len(hello(3)) : given])


def test_octets_are_compared_from_the_first_one_as_unsigned_numbers():
    def with_random(value):
        data = bytearray(hello(0))
        data[11:43] = value
        return bytes(data)

    values = [b"\x7f" + b"\xff" * 31, b"\x80" + b"\0" * 31, b"\x80" + b"\0" * 30 + b"\x01", b"\xff" * 32]
    for low, high in itertools.combinations(values, 2):
        one, other = Symmetry(), Symmetry()
        one.spoke(with_random(low))
        other.spoke(with_random(high))
        assert isinstance(one.heard_untrusted(with_random(high)), IsServer)
        assert isinstance(other.heard_untrusted(with_random(low)), IsClient)


def test_a_mirror_is_refused():
    symmetry = Symmetry()
    symmetry.spoke(hello(9))
    with pytest.raises(HelloRefused) as caught:
        symmetry.heard_untrusted(hello(9))
    assert (caught.value.code, caught.value.alert) == (Code.REMOTE_PROTOCOL, 47)


@pytest.mark.parametrize("has_spoken", [False, True])
def test_what_is_not_tls_is_refused_or_left_to_openssl(has_spoken):
    symmetry = Symmetry()
    if has_spoken:
        symmetry.spoke(hello(9))
        assert symmetry.heard_untrusted(b"SSH-2.0-x\r\n") == IsClient(b"SSH-2.0-x\r\n")
    else:
        with pytest.raises(HelloRefused) as caught:
            symmetry.heard_untrusted(b"SSH-2.0-x\r\n")
        assert caught.value.code is Code.REMOTE_NOT_TLS


def test_a_server_hello_before_we_have_spoken_is_refused():
    with pytest.raises(HelloRefused) as caught:
        Symmetry().heard_untrusted(SERVER_HELLO)
    assert caught.value.code is Code.REMOTE_PROTOCOL


def test_both_ends_agree_whenever_each_of_them_speaks():
    """Play two peers over two pipes that deliver pieces in any order: one client, one server, and no byte lost."""
    dice = random.Random(os.environ.get("TLSPOOL_SEED", "1"))
    for _ in range(500):
        hellos = [hello(fill) for fill in dice.sample(range(256), 2)]
        ends = [Symmetry(), Symmetry()]
        wires = [bytearray(), bytearray()]  # to each end
        spoken = [False, False]
        roles = [None, None]
        for _ in range(10_000):
            if all(roles):
                break
            me = dice.randrange(2)
            if roles[me] is None and not spoken[me] and not ends[me].has_heard and dice.random() < 0.3:
                ends[me].spoke(hellos[me])
                spoken[me] = True
                wires[1 - me] += hellos[me]
            elif wires[me] and roles[me] is None:
                size = dice.randint(1, len(wires[me]))
                data = bytes(wires[me][:size])
                del wires[me][:size]
                verdict = ends[me].heard_untrusted(data)
                if isinstance(verdict, IsServer):
                    roles[me] = "server"
                    assert verdict.data == hellos[1 - me]
                    wires[1 - me] += SERVER_HELLO
                elif verdict is not None:
                    roles[me] = "client"
        assert sorted(roles) == ["client", "server"]


def test_any_bytes_give_a_verdict_or_the_one_exception():
    dice = random.Random(os.environ.get("TLSPOOL_SEED", "2"))
    for turn in range(3000):
        symmetry = Symmetry()
        if turn % 2:
            symmetry.spoke(hello(9))
        data = bytearray(hello(dice.randrange(256)) + SERVER_HELLO)
        for _ in range(dice.randrange(4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with contextlib.suppress(HelloRefused):
            fed(symmetry, bytes(data), dice.choice([1, 3, 50, 1000]))
