"""The PROXY protocol, and the ways through proxies."""

import pytest

from tests.playbook.preambles import C, P, hear, said
from tlspool_admin.preambles import PROTOCOLS, proxyheader, via
from tlspool_admin.preambles.proxyheader import Origin, Proved
from tlspool_admin.preambles.script import LINES, Fail, Say, Secure
from tlspool_admin.preambles.via import Target
from tlspool_admin.preambles.whole import Meeting, Preamble

ORIGIN = Origin(("192.0.2.7", 50412), ("198.51.100.1", 443))
ORIGIN6 = Origin(("2001:db8::7", 50412), ("2001:db8::1", 443))


def read_header(data, chunk_b=10**6):
    """Return where a connection comes from, how it ended, and what was left."""
    meeting = Meeting()
    dialogue = Preamble(is_server=True, accept_proxy=True).dialogue(meeting)
    dialogue.start()
    effects, rest = hear(dialogue, C, data, chunk_b)
    return meeting.origin, effects, rest


@pytest.mark.parametrize("chunk_b", [1, 10**6])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("origin", [ORIGIN, ORIGIN6, None])
def test_headers_are_read_as_they_are_written(origin, version, chunk_b):
    header = proxyheader.write(version, origin)
    found, effects, rest = read_header(header + b"\x16\x03\x01", chunk_b)
    assert found == origin
    assert effects == [Secure(b"")]
    assert rest == b"\x16\x03\x01"  # not one byte of the ClientHello is read


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n",
        proxyheader.SIGNATURE + b"\x20\x00\x00\x00",
        proxyheader.SIGNATURE + b"\x21\x31\x00\x04abcd",
        proxyheader.SIGNATURE + b"\x21\x11\x00\x0f" + bytes(15),
    ],
)
def test_headers_that_may_be(data):
    _, effects, rest = read_header(data + b"rest")
    assert effects == [Secure(b"")]
    assert rest == b"rest"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY " + b"x" * 200,
        proxyheader.SIGNATURE + b"\x11\x11\x00\x00",
        proxyheader.SIGNATURE + b"\x22\x11\x00\x00",
        proxyheader.SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
        proxyheader.SIGNATURE + b"\x21\x11\xff\xff",
        b"\r\n\r\n\0\rXQUIT\n\x21\x11\x00\x0c" + bytes(12),
    ],
)
def test_headers_that_cannot_be(data):
    origin, effects, _ = read_header(data)
    assert origin is None
    assert [type(effect) for effect in effects] == [Fail]


@pytest.mark.parametrize(
    ("remoteid", "tlv"),
    [
        ("jane@x.example", b"\x20\x00\x16\x03\x00\x00\x00\x00\x22\x00\x0ejane@x.example"),
        ("", b"\x20\x00\x05\x01\x00\x00\x00\x01"),
    ],
)
def test_who_the_remote_is(remoteid, tlv):
    preamble = Preamble(is_server=True, send_proxy="v2")
    opening = preamble.opening(Meeting(ORIGIN), remoteid, b"rest")
    assert opening.endswith(tlv + b"rest")
    assert read_header(opening)[0] == ORIGIN
    assert proxyheader.write("v1", ORIGIN, Proved(remoteid)) == proxyheader.write("v1", ORIGIN)


def test_a_header_comes_before_everything_else():
    preamble = Preamble(is_server=True, protocol=PROTOCOLS["smtp"], send_proxy="v1", accept_proxy=True)
    assert preamble.asks_backend
    dialogue = preamble.dialogue(Meeting())
    assert dialogue.start() == []
    effects, _ = hear(dialogue, C, proxyheader.write("v2", ORIGIN))
    assert effects == [Say(P, b"PROXY TCP4 192.0.2.7 198.51.100.1 50412 443\r\n")]
    assert dialogue.wants[0] is P
    assert preamble.opening(Meeting(ORIGIN), "x", b"") == b""


# --- proxies ------------------------------------------------------------------------------------------

HTTP = Preamble(is_server=False, via=("http", Target("x.example", 25)))
SOCKS = Preamble(is_server=False, via=("socks5", Target("x.example", 25, "jane", "guess")))


def play(preamble, *heard):
    dialogue = preamble.dialogue(Meeting())
    effects = dialogue.start()
    for data in heard:
        more, rest = hear(dialogue, C, data)
        assert not rest or dialogue.over
        effects += more
    return said(effects)


def test_http_connect():
    request = b"CONNECT x.example:25 HTTP/1.1\r\nHost: x.example:25\r\n\r\n"
    assert play(HTTP, b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n") == ({C: request}, [Secure(b"")])
    target = Target("2001:db8::1", 25, "jane", "guess")
    texts, _ = play(Preamble(is_server=False, via=("http", target)))
    assert texts[C].startswith(b"CONNECT [2001:db8::1]:25 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic amFuZTpndWVzcw==\r\n\r\n" in texts[C]
    assert "guess" not in repr(target)


def test_the_server_may_speak_right_behind_the_proxy():
    preamble = Preamble(is_server=False, domain="m", protocol=PROTOCOLS["pop3"], via=HTTP.via)
    texts, ends = play(preamble, b"HTTP/1.0 200\r\n\r\n+OK hi\r\n", b"+OK\r\n")
    assert texts[C].endswith(b"\r\n\r\nSTLS\r\n")
    assert ends == [Secure(b"+OK m\r\n")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"HTTP/1.1 407 Login\r\n", "407 Login"),
        (b"SSH-2.0\r\n", "no answer of an HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (LINES + 1), f"more than {LINES} lines"),
    ],
)
def test_http_proxies_that_refuse(data, text):
    assert text in play(HTTP, data)[1][0].text


@pytest.mark.parametrize("bound", [b"\x01" + bytes(6), b"\x04" + bytes(18), b"\x03\x01x\0\0"])
def test_socks(bound):
    texts, ends = play(SOCKS, b"\x05\x02", b"\x01\x00", b"\x05\x00\x00" + bound)
    assert texts[C] == b"\x05\x01\x02" + b"\x01\x04jane\x05guess" + b"\x05\x01\x00\x03\x09x.example\x00\x19"
    assert ends == [Secure(b"")]
    target = Target("127.0.0.1", 25)
    assert play(Preamble(is_server=False, via=("socks5", target)), b"\x05\0")[0][C].endswith(b"\x01\x7f\0\0\x01\0\x19")


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ([b"\x04\x02"], "no answer of a SOCKS 5 proxy"),
        ([b"\x05\x00"], "another way to log in"),
        ([b"\x05\x02", b"\x01\x01"], "does not accept user and password"),
        ([b"\x05\x02", b"\x01\x00", b"\x05\x05\x00\x01"], "5: connection refused"),
        ([b"\x05\x02", b"\x01\x00", b"\x05\xee\x00\x01"], "238: no reason known"),
        ([b"\x05\x02", b"\x01\x00", b"\x04\x00\x00\x01"], "no answer of a SOCKS 5 proxy"),
        ([b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x09"], "an address of kind 9"),
    ],
)
def test_socks_proxies_that_refuse(heard, text):
    assert text in play(SOCKS, *heard)[1][0].text


def test_ways_are_named():
    assert set(via.WAYS) == {"http", "socks5"}
