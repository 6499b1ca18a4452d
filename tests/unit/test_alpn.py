"""Our order decides; nothing shared is a refusal; nothing of ours is no answer."""

import pytest
from OpenSSL._util import ffi

from tlspool_worker import alpn


@pytest.mark.parametrize(
    ("ours", "offered", "chosen"),
    [
        (b"\2h2\x08http/1.1", b"\x08http/1.1\2h2", b"h2"),
        (b"\x08http/1.1", b"\2h2\x08http/1.1", b"http/1.1"),
        (b"\2h2", b"\3h2c\4imap", None),
        (b"", b"\2h2", b""),
        (b"\2h2", b"", None),
    ],
)
def test_select(ours, offered, chosen):
    assert alpn.select(ours, offered) == chosen


@pytest.mark.parametrize(
    ("body", "names"),
    [(b"\2h2\1x", [b"h2", b"x"]), (b"", []), (b"\0\2h2", [b"h2"]), (b"\2h2\5imap", [b"h2"]), (b"\xff", [])],
)
def test_split(body, names):
    assert alpn.split(body) == names


def call(ours, offered):
    out, length = ffi.new("unsigned char **"), ffi.new("unsigned char *")
    data = ffi.new("unsigned char[]", offered)
    with alpn.Choosing(ours):
        answer = alpn.SELECT(ffi.NULL, out, length, data, len(offered), ffi.NULL)
    return answer, ffi.buffer(out[0], length[0])[:] if answer == 0 else b""


def test_the_callback_answers_with_a_piece_of_the_list():
    assert call(b"\2h2", b"\4xh2x\2h2") == (0, b"h2")
    assert call(b"\2h2", b"\4imap") == (2, b"")
    assert call(b"", b"\2h2") == (3, b"")  # SSL_TLSEXT_ERR_NOACK


def test_the_callback_fails_closed(monkeypatch):
    monkeypatch.setattr(alpn, "select", lambda *_: 1 / 0)
    assert call(b"\2h2", b"\2h2")[0] == 2
