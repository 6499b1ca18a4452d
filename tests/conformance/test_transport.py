"""Points of the specification that are about amounts, which a table of single frames cannot show."""

import select
import socket

import pytest

from tests.conformance.layout import FRAME_B, build, describe
from tests.conformance.stage import App, Stage


@pytest.fixture
def pool(pools):
    return pools("")


@pytest.fixture
def stage(pool, no_leaks):
    made = Stage(*pool)
    yield made
    made.close()


RELAYING = """
socket s
s tls client sni=localhost cert=testcli@tlspool.arpa2.lab
a> STARTTLS 1 flags=SERVER ipproto=6 localid=localhost ctlkey=$k service=generic [s] as=req
a< PLAINTEXT_CONNECT 1/$cb like=req remoteid=testcli@tlspool.arpa2.lab as=cb
plain p seqpacket
a> PLAINTEXT_CONNECT 1/$cb like=cb [p]
a< STARTTLS 1 like=cb
s done
"""


def test_nothing_is_said_first(pool, no_leaks):
    app = App(pool[0])
    assert not select.select([app.sock], [], [], 0.2)[0]
    ping, _ = build("PING", 1, 0, {})
    app.send(ping, [])
    assert app.receive()[:8] == ping[:8]
    app.sock.close()


def test_replies_come_whole_when_the_buffer_is_small(pool, no_leaks):
    """A client that does not read fills both buffers; each read gets one whole frame all the same."""
    app = App(pool[0])
    app.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    app.sock.setblocking(False)
    asked = 0
    while asked < 60_000:
        ping, _ = build("PING", asked, 0, {"facilities": 1})
        try:
            sent = app.sock.send(ping)
        except BlockingIOError:
            break
        app.sock.setblocking(True)
        app.sock.sendall(ping[sent:])
        app.sock.setblocking(False)
        asked += 1
    assert 100 < asked < 60_000
    app.sock.settimeout(20)
    for number in range(asked):
        wanted, _ = build("PING", number, 0, {"producer": "20151111api@tlspool.arpa2.net", "facilities": 1})
        received = app.receive()
        assert received == wanted, describe(received)
    app.sock.close()


def test_seqpacket_gets_at_most_512_bytes_at_a_time(stage):
    stage.play(RELAYING)
    sent = bytes(range(256)) * 64
    stage.wire("s").say(sent)
    plain = stage.wire("p").ours
    got = b""
    while len(got) < len(sent):
        part = plain.recv(65536)
        assert 0 < len(part) <= 512
        got += part
    assert got == sent
    stage.end()


def test_a_session_of_every_size_of_frame_piece(stage):
    """A STARTTLS in pieces of any size, its descriptor with any of them."""
    for at in (1, 7, 8, 100, 387):
        stage.play(f"""
            socket t{at}
            a> STARTTLS {at} flags=SERVER ipproto=6 localid=nobody.example ctlkey=$k{at} bytes=0:{at} as=r{at}
            a> STARTTLS {at} like=r{at} bytes={at}:{FRAME_B} [t{at}]
            a< ERROR {at} CONNECTION_DRIVER_SETUP 201
            t{at}< end
        """)
    stage.end()
