"""ClientHellos of real clients, whole, in pieces, cut and spoilt; and what is no ClientHello."""

import json
import ssl
from pathlib import Path

import pytest

from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_worker.alpn import split
from tlspool_worker.client_hello import (
    HELLO_B,
    NO_ALERT,
    ClientHello,
    HelloReader,
    HelloRefused,
    refuse_plaintext_untrusted,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "hello"
EXPECTED = json.loads((VECTORS / "expected.json").read_text())


def load(name):
    return (VECTORS / f"{name}.bin").read_bytes()


def read(data):
    return HelloReader().feed_untrusted(data)


def refused(data):
    with pytest.raises(HelloRefused) as caught:
        read(data)
    return caught.value


def fragmented(data, size_b):
    """The same handshake message in records of a given size."""
    body = data[5:]
    pieces = [body[at : at + size_b] for at in range(0, len(body), size_b)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


def hello(extensions=b"", tail=b"", session_id=b"", version=b"\x03\x03"):
    """Build a ClientHello in one record."""
    body = version + bytes(32) + bytes([len(session_id)]) + session_id + b"\0\2\x13\x01" + b"\1\0"
    if extensions is not None:
        body += len(extensions).to_bytes(2) + extensions
    body += tail
    message = b"\1" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


def extension(kind, body):
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


def sni(name, kind=0):
    one = bytes([kind]) + len(name).to_bytes(2) + name
    return extension(0, len(one).to_bytes(2) + one)


def alpn(*names):
    body = b"".join(bytes([len(name)]) + name for name in names)
    return extension(16, len(body).to_bytes(2) + body)


# --- real clients ----------------------------------------------------------------------------------------


def test_every_vector_has_an_expectation():
    assert {path.stem for path in VECTORS.glob("*.bin")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_vectors(name):
    found = read(load(name))
    assert found.sni == EXPECTED[name]["sni"]
    assert [protocol.decode() for protocol in split(found.alpn)] == EXPECTED[name]["alpn"]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_bytes_are_kept_as_they_came(name):
    reader = HelloReader()
    data = load(name)
    assert reader.feed_untrusted(data) is not None
    assert reader.raw == data


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("size_b", [1, 3, 4, 5, 100])
def test_fragments(name, size_b):
    assert read(fragmented(load(name), size_b)) == read(load(name))


@pytest.mark.parametrize("name", EXPECTED)
def test_byte_by_byte_and_truncated_at_every_byte(name):
    data = fragmented(load(name), 60)
    reader = HelloReader()
    for at in range(len(data) - 1):
        assert reader.feed_untrusted(data[at : at + 1]) is None
        assert read(data[: at + 1]) is None
    assert reader.feed_untrusted(data[-1:]) == read(data)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_length_that_lies_is_refused_or_waited_for(name):
    """Shorten the message at every byte, with the outer lengths in order: nothing is read beyond the end."""
    message = load(name)[5:]
    for size_b in range(4, len(message)):
        body = message[4:size_b]
        whole = b"\1" + len(body).to_bytes(3) + body
        data = b"\x16\x03\x01" + len(whole).to_bytes(2) + whole
        try:
            found = read(data)
        except HelloRefused as error:
            assert (error.code, error.alert) == (Code.REMOTE_PROTOCOL, 50)
        else:
            assert found == ClientHello("", b"")  # cut exactly before the extensions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_ssl_module(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["imap", "xmpp-client"])
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="mail.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    assert read(outgoing.read()) == ClientHello("mail.example.com", b"\4imap\x0bxmpp-client")


# --- made ones -------------------------------------------------------------------------------------------


def test_without_extensions():
    assert read(hello(None)) == ClientHello("", b"")
    assert read(hello(b"")) == ClientHello("", b"")


def test_a_name_in_capitals():
    assert read(hello(sni(b"WWW.Example.COM"))).sni == "www.example.com"


def test_unknown_extensions_do_not_matter():
    assert read(hello(extension(0xFAFA, b"grease") + sni(b"a.example") + extension(43, b"x"))).sni == "a.example"


def test_alpn_beyond_what_a_message_holds_is_cut_at_a_name():
    names = [b"%03d" % number + b"x" * 60 for number in range(40)]
    found = split(read(hello(alpn(*names))).alpn)
    assert found == names[: limits.ALPN_B // 64]


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (hello(sni(b"")), 50),
        (hello(sni(b"x" * 256)), 50),
        (hello(sni(b"a.example", kind=1)), 50),
        (hello(sni(b"a.example") + sni(b"b.example")), 47),
        (hello(sni(b"a\0b")), 47),
        (hello(sni(b"a b")), 47),
        (hello(sni("bücher.example".encode())), 47),
        (hello(extension(0, b"")), 50),
        (hello(extension(0, b"\0\0")), 50),
        (hello(extension(0, b"\0\7\0\0\4abcdX")), 50),
        (hello(alpn(b"h2") + alpn(b"h2")), 47),
        (hello(alpn(b"")), 50),
        (hello(extension(16, b"\0\0")), 50),
        (hello(extension(16, b"\0\3\5h2")), 50),
        (hello(b"\0"), 50),
        (hello(b"\0\0\0\x09ab"), 50),
        (hello(b"", tail=b"x"), 50),
        (b"\x16\x03\x01\x00\x10" + bytes(16), 10),
        (b"\x16\x03\x01\x00\x04\x02\0\0\0", 10),
        (b"\x16\x03\x01\x00\x00", 10),
        (b"\x16\x03\x01\x40\x01", 22),
        (b"\x16\x03\x01\x00\x04\x01" + (HELLO_B + 1).to_bytes(3), 47),
        (b"\x16\x03\x01\0\1\1" + b"\x17\x03\x03\0\1x", 10),
    ],
)
def test_malformed(data, alert):
    error = refused(data)
    assert (error.code, error.alert) == (Code.REMOTE_PROTOCOL, alert)
    assert error.detail


def test_another_message_behind_it():
    data = hello()
    message = data[5:] + b"\x01\0\0\0"
    error = refused(b"\x16\x03\x01" + len(message).to_bytes(2) + message)
    assert error.alert == 10


def test_a_flood_of_small_records_is_bounded():
    piece = fragmented(b"-----\1\0\x7f\xff" + bytes(0x7FFF), 1)
    reader = HelloReader()
    with pytest.raises(HelloRefused) as caught:
        for at in range(0, len(piece), 1000):
            reader.feed_untrusted(piece[at : at + 1000])
    assert caught.value.alert == 47
    assert len(reader.raw) <= 2 * HELLO_B + 1000


# --- no TLS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP/2"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"EHLO example.com\r\n", "SMTP"),
        (b"\x80\x2e\x01\x03\x01" + bytes(20), "SSLv2"),
        (b"\x00\x01\x02", "no TLS"),
        (b"G", "no TLS"),
        (b"\x16\x02\x00\x00\x05", "no TLS"),
        (b"\x15\x05\x00\x00\x02", "no TLS"),
    ],
)
def test_plaintext_is_named(data, name):
    error = refused(data)
    assert (error.code, error.alert) == (Code.REMOTE_NOT_TLS, NO_ALERT)
    assert name in error.detail


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"220 mail ESMTP", "SMTP"), (b"* OK IMAP4", "IMAP"), (b"+OK", "POP3"), (b"HTTP/1.0 400", "HTTP")],
)
def test_servers_that_speak_plaintext(data, name):
    with pytest.raises(HelloRefused, match=name):
        refuse_plaintext_untrusted(data)


def test_an_alert_instead():
    error = refused(b"\x15\x03\x01\x00\x02\x02\x46")
    assert (error.code, error.alert) == (Code.REMOTE_ALERT, 70)
    assert read(b"\x15\x03\x01\x00\x02\x02") is None
