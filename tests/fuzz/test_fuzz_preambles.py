"""Invariant: whatever the two sides say before TLS, in whatever pieces, a Dialogue returns effects and never raises.

It reads no more than it may, ends within its limits, and agrees on TLS only upon what a protocol calls an agreement,
with nothing behind it that it has read.
"""

import random

import pytest

from tests.playbook.preambles import STORIES, begin
from tlspool_admin.preambles import PROTOCOLS, proxyheader
from tlspool_admin.preambles.script import LINE_B, TOTAL_B, Dialogue, Ended, Fail, Received, Say, Secure, Side
from tlspool_admin.preambles.via import Target
from tlspool_admin.preambles.whole import Meeting, Preamble

RUNS = 400
"""For each protocol and side: some seconds together."""

SEEDS = [data for story in STORIES.values() for _, data, _ in story.steps]
SEEDS += [proxyheader.write("v1", None), proxyheader.SIGNATURE + b"\x21\x11\x00\x0c" + bytes(12)]
SEEDS += [b"HTTP/1.1 200 OK\r\n\r\n", b"\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"]
TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"-",
    b"<",
    b">",
    b"'",
    b"250 ",
    b"250-",
    b"* OK ",
    b"+OK ",
    b"{9+}",
    b"\xff",
]


def mutated(dice, data):
    """Return data with some changes."""
    data = bytearray(data)
    for _ in range(dice.choice((0, 0, 1, 1, 2, 5))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at:at] = dice.choice(TOKENS)
            case 1:
                del data[at : at + dice.randrange(1, 9)]
            case 2:
                data[at : at + 1] = bytes((dice.randrange(256),))
            case 3:
                data[at:at] = dice.choice(SEEDS)
            case 4:
                data[at:at] = data[:at][-dice.randrange(1, 99) :] * dice.randrange(1, 9)
    return bytes(data)


def play(dice, dialogue, effects, tape):
    """Play until it is over, or nothing is left to be said; return all effects."""
    read_b = 0
    while not dialogue.over:
        side, size_b = dialogue.wants
        assert 0 < size_b <= max(LINE_B, 4096, proxyheader.V2_B)
        if not tape[side]:
            effects += dialogue.handle(Ended(side))
            break
        part = tape[side][: min(size_b, dice.choice((1, 3, 10**6)))]
        tape[side] = tape[side][len(part) :]
        read_b += len(part)
        effects += dialogue.handle(Received(side, part))
    assert dialogue.over
    assert dialogue.wants is None
    assert read_b <= TOTAL_B + LINE_B
    ends = [effect for effect in effects if not isinstance(effect, Say)]
    assert len(ends) == 1
    assert effects[-1] is ends[0]
    assert isinstance(ends[0], (Secure, Fail))
    if isinstance(ends[0], Fail):
        assert len(ends[0].text) < 500
    return effects


@pytest.mark.parametrize("key", sorted(STORIES), ids="-".join)
def test_dialogues(key):
    dice = random.Random(f"{key}")
    secured = 0
    for _ in range(RUNS):
        dialogue, effects = begin(key)
        tape = {Side.CRYPT: b"", Side.PLAIN: b""}
        for side, data, _ in STORIES[key].steps:
            tape[side] += mutated(dice, data)
        effects = play(dice, dialogue, effects, tape)
        if isinstance(effects[-1], Secure):
            secured += 1
            assert effects[-1].opening == STORIES[key].opening or key == ("nntp", "client")
        for effect in effects:
            if isinstance(effect, Say) and key[0] not in ("xmpp", "xmpp-server", "ldap", "postgres"):
                # Nothing that was heard can break a line of what is said.
                assert effect.data.endswith(b"\r\n")
                assert b"\r" not in effect.data.replace(b"\r\n", b"")
                assert b"\n" not in effect.data.replace(b"\r\n", b"")
    assert 0 < secured < RUNS


@pytest.mark.parametrize(
    "preamble",
    [
        Preamble(is_server=True, accept_proxy=True),
        Preamble(is_server=True, accept_proxy=True, send_proxy="v2", protocol=PROTOCOLS["smtp"]),
        Preamble(is_server=False, via=("http", Target("x.example", 1)), protocol=PROTOCOLS["imap"]),
        Preamble(is_server=False, via=("socks5", Target("x.example", 1, "a", "b"))),
    ],
)
def test_what_goes_before(preamble):
    dice = random.Random(1)
    for _ in range(RUNS * 4):
        dialogue = preamble.dialogue(Meeting())
        tape = {side: mutated(dice, b"".join(dice.sample(SEEDS, 3))) for side in Side}
        play(dice, dialogue, dialogue.start(), tape)


def test_noise():
    dice = random.Random(2)
    for key in STORIES:
        for _ in range(50):
            name, role = key
            dialogue, effects = begin(key)
            tape = {side: dice.randbytes(dice.randrange(1, 3000)) for side in Side}
            assert isinstance(play(dice, dialogue, effects, tape)[-1], Fail)
            assert isinstance(dialogue, Dialogue), (name, role)
