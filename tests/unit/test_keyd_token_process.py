"""What a token process answers, and how it ends."""

import os
import select
import signal
import subprocess
import sys

import pytest

from tests.fixtures import slowtoken
from tests.fixtures.keyd_world import NAMES, PIN, WAIT_S, KeydWorld, await_message
from tlspool_common import limits
from tlspool_common.channel import Channel, ChannelClosed, pair
from tlspool_common.errors import Code
from tlspool_common.messages import (
    Party,
    TokenFind,
    TokenFound,
    TokenList,
    TokenListed,
    TokenOpen,
    TokenOpened,
    TokenSign,
    TokenSigned,
    prose,
)

ED25519 = 0x0807


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return KeydWorld(tmp_path_factory.mktemp("w"), {"ed25519": "ed25519"})


@pytest.fixture
def start(world, no_leaks):
    """Start token processes; all have ended when the test is over."""
    made = []

    def run():
        channel, theirs = pair(Party.KEYD, Party.TOKEN)
        command = [sys.executable, "-m", "tlspool_keyd.token_process", str(theirs.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            command, env=world.child_environment(), pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        )
        theirs.close()
        made.append((channel, process))
        return channel, process

    yield run
    for channel, process in made:
        channel.close()
        process.communicate(timeout=WAIT_S)


def opening(**changes):
    fields = {
        "module": slowtoken.SOFTHSM,
        "token_uri": "pkcs11:",
        "pin_secret": PIN.encode(),
        "pin_refused_by": (),
        "sessions": 4,
    }
    return TokenOpen(**{**fields, **changes})


def opened(channel: Channel, **changes) -> TokenOpened:
    channel.send(opening(**changes), exchange=1)
    answer, exchange = await_message(channel)
    assert isinstance(answer, TokenOpened)
    assert exchange == 1
    return answer


def ask(channel, message, exchange=5):
    channel.send(message, exchange=exchange)
    answer, answered = await_message(channel)
    assert answered == exchange
    return answer


def test_a_process_serves_until_its_channel_is_closed(start, world):
    channel, process = start()
    answer = opened(channel)
    assert (answer.code, answer.detail, len(answer.tokens)) == (Code.OK, "", 1)
    key = world.key("ed25519")
    assert ask(channel, TokenFind(uri=key.uri)) == TokenFound(code=0, detail="", spki=key.spki)
    content = bytes(limits.SIGN_CONTENT_B)
    signed = ask(channel, TokenSign(uri=key.uri, scheme=ED25519, spki_sha256=key.spki_sha256, content=content))
    assert isinstance(signed, TokenSigned)
    assert (signed.code, len(signed.signature)) == (Code.OK, 64)
    channel.close()
    assert process.wait(WAIT_S) == 0
    assert process.stderr.read() == b""


def test_many_requests_at_once(start, world):
    channel, _ = start()
    opened(channel)
    key = world.key("ed25519")
    for exchange in range(1, 201):
        channel.send(
            TokenSign(uri=key.uri, scheme=ED25519, spki_sha256=key.spki_sha256, content=bytes(exchange)),
            exchange=exchange,
        )
    answered = set()
    while len(answered) < 200:
        channel.flush()
        message, exchange = await_message(channel)
        assert message.code == Code.OK
        answered.add(exchange)
    assert answered == set(range(1, 201))


def test_trouble_is_a_code_and_a_detail(start, world):
    channel, _ = start()
    opened(channel)
    key = world.key("ed25519")
    found = ask(channel, TokenFind(uri="pkcs11:object=nothing"))
    assert (found.code, found.spki) == (Code.KEY_NOT_FOUND, b"")
    signed = ask(channel, TokenSign(uri=key.uri, scheme=0x0403, spki_sha256=key.spki_sha256, content=b""))
    assert (signed.code, signed.signature) == (Code.SCHEME_REFUSED, b"")
    assert "ED25519" in signed.detail


def test_the_list_of_keys(start, world):
    channel, _ = start()
    opened(channel)
    listed = ask(channel, TokenList(skip=0))
    assert isinstance(listed, TokenListed)
    assert (listed.code, listed.more, len(listed.keys)) == (Code.OK, False, 2)
    for line in listed.keys:
        kind, state, uri = line.split(" ")
        assert (kind, state) == ("ED25519", "ready")
        assert ask(channel, TokenFind(uri=uri)).spki in {world.key("ed25519", name).spki for name in NAMES}
    assert ask(channel, TokenList(skip=1)).keys == listed.keys[1:]
    assert ask(channel, TokenList(skip=99)).keys == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"pin_secret": b"wrong"}, Code.PIN_WRONG),
        ({"pin_secret": b""}, Code.PIN_MISSING),
        ({"token_uri": "pkcs11:token=nothing"}, Code.TOKEN_GONE),
        ({"token_uri": "nonsense"}, Code.KEY_URI_MALFORMED),
        ({"module": "/nowhere.so"}, Code.TOKEN_FAILED),
    ],
)
def test_a_process_that_cannot_open_says_why_and_ends(start, changes, code):
    channel, process = start()
    answer = opened(channel, **changes)
    assert answer.code == code
    assert process.wait(WAIT_S) == 0
    assert b"wrong" not in process.stderr.read()


def test_a_frame_that_breaks_the_table_ends_the_process(start):
    channel, process = start()
    opened(channel)
    channel._sock.send(b"garbage")
    assert process.wait(WAIT_S) == 0


def test_a_request_before_the_opening_ends_the_process(start):
    channel, process = start()
    channel.send(TokenFind(uri="pkcs11:object=a"))
    with pytest.raises(ChannelClosed):
        await_message(channel)
    assert process.wait(WAIT_S) == 0


def test_the_process_is_named_without_its_pin(start):
    channel, process = start()
    opened(channel, token_uri="pkcs11:token=ed25519")
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        title = file.read().rstrip(b"\0 ")
    assert title == b"tlspool-keyd: token ed25519"


def test_interrupts_of_the_group_are_keyds_business(start, world):
    channel, process = start()
    opened(channel)
    process.send_signal(signal.SIGINT)
    assert ask(channel, TokenFind(uri=world.key("ed25519").uri)).code == Code.OK
    assert not select.select([channel], [], [], 0)[0]


def test_prose_is_cut_to_its_field():
    assert prose("short") == "short"
    assert len(prose("ž" * 1000).encode()) <= limits.PROSE_B
    assert prose("\udcff") == "?"
