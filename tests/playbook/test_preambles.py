"""What is said before TLS, by protocol and side: the story as it should go, and every way in which it can go wrong."""

import pytest

from tests.playbook.preambles import STORIES, TLS, C, P, begin, hear, joined, points, said, stream, up_to
from tlspool_admin.preambles import PROTOCOLS
from tlspool_admin.preambles.script import (
    COMMANDS,
    LINE_B,
    LINES,
    TOTAL_B,
    Ended,
    Fail,
    Received,
    Say,
    Secure,
    TimedOut,
)

EACH = pytest.mark.parametrize("key", sorted(STORIES), ids="-".join)


def test_every_protocol_has_both_stories():
    assert {name for name, _ in STORIES} == set(PROTOCOLS)
    assert len(STORIES) == 2 * len(PROTOCOLS)


@EACH
@pytest.mark.parametrize("chunk_b", [1, 7, 10**6])
def test_as_it_should_go(key, chunk_b):
    story = STORIES[key]
    dialogue, effects = begin(key)
    assert said(effects) == (joined(story.first), [])
    for number, (side, data, answer) in enumerate(story.steps):
        effects, rest = hear(dialogue, side, data, chunk_b)
        assert not rest
        ends = [Secure(story.opening)] if number == len(story.steps) - 1 else []
        assert said(effects) == (joined(answer), ends)
    assert dialogue.over
    assert dialogue.wants is None
    assert dialogue.handle(Received(C, b"x")) == []


@EACH
def test_a_side_that_leaves(key):
    for number in points(key):
        dialogue = up_to(key, number)
        side = STORIES[key].steps[number][0]
        _, ends = said(dialogue.handle(Ended(side)))
        assert [(end.side, "closed the connection" in end.text) for end in ends] == [(side, True)]
        assert dialogue.over


@EACH
def test_a_side_that_is_silent(key):
    for number in points(key):
        dialogue = up_to(key, number)
        assert said(dialogue.handle(TimedOut()))[1][0].side is STORIES[key].steps[number][0]
        assert dialogue.over


@EACH
@pytest.mark.parametrize("data", [b"\xff\xfe\x00\x01\r\n" * 3, b"\0" * 64, b">" * 64, b"\r\n" * 64, b"<" * 5000])
def test_garbage(key, data):
    """It is never taken for an agreement: a server may go on waiting for a command that makes sense."""
    for number in points(key):
        dialogue = up_to(key, number)
        effects, _ = hear(dialogue, STORIES[key].steps[number][0], data * 2)
        assert not any(isinstance(effect, Secure) for effect in effects)
        if key[1] == "client":
            assert dialogue.over or not effects


@EACH
@pytest.mark.parametrize(
    "data", [b"x" * (TOTAL_B + LINE_B), b"220-x\r\n" * (TOTAL_B // 4), b"* x\r\n" * (TOTAL_B // 4)]
)
def test_endless_talk_ends(key, data):
    for number in points(key):
        dialogue = up_to(key, number)
        side = STORIES[key].steps[number][0]
        heard_b = 0
        while not dialogue.over and dialogue.wants[0] is side:
            part = data[heard_b : heard_b + dialogue.wants[1]]
            heard_b += len(part)
            assert len(part) <= LINE_B
            dialogue.handle(Received(side, part))
        assert heard_b <= TOTAL_B + LINE_B
        # A backend whose answer made no sense may talk on: it is not listened to any more.
        assert dialogue.over or (side is P and dialogue.wants[0] is C)


@EACH
def test_bytes_behind_the_agreement(key):
    """What is glued behind it is refused, and the agreement is not even confirmed (CVE-2011-0411)."""
    story = STORIES[key]
    dialogue = up_to(key, len(story.steps) - 1)
    side, data, answer = story.steps[-1]
    effects, rest = hear(dialogue, side, data + b"x\r\n")
    if story.reads_exactly:
        assert rest == b"x\r\n"  # left in the kernel, where TLS finds it, which it is not
        assert effects[-1] == Secure(story.opening)
    else:
        assert [type(effect) for effect in effects] == [Fail]
        assert "bytes in plaintext after it agreed on TLS" in effects[0].text
        assert answer is story.steps[-1][2]


@pytest.mark.parametrize("name", ["smtp", "lmtp", "pop3", "imap", "ftp", "nntp", "sieve", "irc"])
def test_a_client_that_never_turns_to_tls(name):
    key = (name, "server")
    dialogue = up_to(key, len(STORIES[key].steps) - 1)
    effects, _ = hear(dialogue, C, b"a LOGIN x y\r\n" * (COMMANDS + 1))
    assert isinstance(effects[-1], Fail)
    assert f"{COMMANDS} commands" in effects[-1].text
    assert len(effects) <= COMMANDS + 1


@pytest.mark.parametrize(
    ("name", "word", "answer"),
    [
        ("smtp", b"QUIT", b"221 "), ("pop3", b"QUIT", b"+OK"), ("imap", b"1 LOGOUT", b"* BYE"),
        ("ftp", b"QUIT", b"221"), ("nntp", b"QUIT", b"205"), ("sieve", b"LOGOUT", b"OK"),
        ("irc", b"QUIT :bye", b"ERROR"),
    ],
)  # fmt: skip
def test_a_client_that_takes_its_leave(name, word, answer):
    key = (name, "server")
    dialogue = up_to(key, len(STORIES[key].steps) - 1)
    effects, _ = hear(dialogue, C, word + b"\r\n")
    assert effects[0].data.startswith(answer)
    assert effects[-1] == Fail(C, "the client left without TLS")


@pytest.mark.parametrize(
    ("name", "word", "answer"),
    [
        ("smtp", b"MAIL FROM:<x>", b"530 5.7.0 "), ("smtp", b"EHLO", b"501 5.5.4 "),
        ("smtp", b"HELO x", b"250 mail\r\n"),
        ("smtp", b"STARTTLS x", b"501 "), ("smtp", b"RSET", b"250 "), ("lmtp", b"HELO x", b"530 "),
        ("smtp", b"", b"530 "),
        ("pop3", b"USER x", b"-ERR"), ("imap", b"1 LOGIN a b", b"1 NO [PRIVACYREQUIRED]"), ("imap", b"1 NOOP", b"1 OK"),
        ("imap", b"1 SELECT x", b"1 BAD"), ("imap", b"1 STARTTLS x", b"1 BAD"), ("imap", b"+ x", b"* BAD"),
        ("ftp", b"USER x", b"530 "), ("ftp", b"NOOP", b"200 "), ("nntp", b"GROUP x", b"483 "),
        ("nntp", b"STARTTLS x", b"483 "), ("sieve", b"AUTHENTICATE", b"NO (ENCRYPT-NEEDED)"),
        ("sieve", b"CAPABILITY", b'"IMPL'),
        ("irc", b"NICK x", b":mail.example 451 "), ("irc", b"CAP REQ :sasl", b":mail.example CAP * NAK :sasl"),
        ("irc", b"\xff", b":mail.example 451 "),
    ],
)  # fmt: skip
def test_commands_before_tls(name, word, answer):
    key = (name, "server")
    dialogue = up_to(key, len(STORIES[key].steps) - 1)
    effects, _ = hear(dialogue, C, word + b"\r\n")
    assert [type(effect) for effect in effects] == [Say]
    assert effects[0].data.startswith(answer)
    assert not dialogue.over


@pytest.mark.parametrize(
    ("key", "heard", "text"),
    [
        (("smtp", "client"), [b"554 no\r\n"], "connecting was answered with 554 'no'"),
        (("smtp", "client"), [b"hello\r\n"], "no answer of this protocol: 'hello'"),
        (("smtp", "client"), [b"220 x\r\n", b"502 x\r\n"], "EHLO was answered with 502"),
        (("smtp", "client"), [b"220 x\r\n", b"250-x\r\n250 SIZE\r\n"], "somebody on the way took the offer out"),
        (("smtp", "client"), [b"220 x\r\n", b"250 STARTTLS\r\n"], "does not offer STARTTLS"),
        (("smtp", "client"), [b"220-x\r\n" * (LINES + 1)], f"more than {LINES} lines"),
        (("smtp", "client"), [b"220 a\rb\r\n"], "control characters in a line"),
        (("pop3", "client"), [b"-ERR no\r\n"], "connecting was answered with '-ERR no'"),
        (("pop3", "client"), [b"+OK\r\n", b"-ERR no\r\n"], "STLS was answered with '-ERR no'"),
        (("imap", "client"), [b"* PREAUTH\r\n"], "PREAUTH"),
        (("imap", "client"), [b"* BYE\r\n"], "connecting was answered with '* BYE'"),
        (("imap", "client"), [b"* OK\r\n", b"a1 BAD no\r\n"], "STARTTLS was answered with 'a1 BAD no'"),
        (("imap", "client"), [b"* OK\r\n", b"a2 OK no\r\n"], "STARTTLS was answered with 'a2 OK no'"),
        (("imap", "client"), [b"* OK\r\n", b"* x\r\n" * (LINES + 1)], f"more than {LINES} lines"),
        (("ftp", "client"), [b"220 x\r\n", b"334 x\r\n"], "AUTH TLS was answered with 334"),
        (("nntp", "client"), [b"502 x\r\n"], "connecting was answered with 502"),
        (("nntp", "client"), [b"200 x\r\n", b"580 x\r\n"], "STARTTLS was answered with 580"),
        (("sieve", "client"), [b'"SIEVE" ""\r\nOK\r\n'], "does not offer STARTTLS"),
        (("sieve", "client"), [b'BYE(TRYLATER) "x"\r\n'], "connecting was answered with 'BYE(TRYLATER)"),
        (("sieve", "client"), [b'"X" {4}\r\n'], "connecting was answered with"),
        (("sieve", "client"), [b'"X"\r\n' * (LINES + 1)], f"more than {LINES} lines"),
        (("irc", "client"), [b":x 691 * :no\r\n"], "STARTTLS was answered with ':x 691 * :no'"),
        (("irc", "client"), [b"NOTICE x\r\n" * (LINES + 1)], f"more than {LINES} lines"),
        (("xmpp", "client"), [stream(b"a", b"") + b"<stream:features/>"], "does not offer STARTTLS"),
        (("xmpp", "client"), [b"<stream:stream version='1.0'>"], "no stream of XMPP"),
        (("xmpp", "client"), [stream(b"a", b"").replace(b"version='1.0' xmlns=", b"xmlns=")], "older than version 1.0"),
        (("xmpp", "client"), [stream(b"a", b"") + b"<stream:error><conflict/>"], "'conflict'"),
        (("xmpp", "client"), [stream(b"a", b"") + b"<stream:features><a></b>"], "'b' ends what it did not begin"),
        (("xmpp", "client"), [stream(b"a", b"") + b"<stream:features>" + b"<a>" * 500], "more than 400 tags"),
        (("xmpp", "client"), [stream(b"a", b"") + b"text<stream:features>"], "text where none belongs"),
        (("xmpp", "client"), [stream(b"a", b"") + b"<other/>"], "'other' came in place of the features"),
        (("xmpp", "client"), [b"<!DOCTYPE x>"], "no XML of XMPP"),
        (("xmpp", "client"), [STORIES["xmpp", "client"].steps[0][1], b"<failure xmlns='" + TLS + b"'/>"], "'failure'"),
        (("xmpp", "client"), [STORIES["xmpp", "client"].steps[0][1], b"<proceed/>"], "starttls was answered with"),
        (("xmpp", "client"), [STORIES["xmpp", "client"].steps[0][1], b"</stream:stream>"], "the stream was closed"),
        (("xmpp", "server"), [stream(b"a", b"to='other.example'")], "the client asks for 'other.example'"),
        (("xmpp", "server"), [stream(b"a", b""), b"<auth/>"], "'auth' in place of starttls"),
        (("xmpp", "server"), [stream(b"a", b""), b"<starttls/>"], "'starttls' in place of starttls"),
        (("xmpp", "server"), [stream(b"a", b""), b"<starttls xmlns='" + TLS + b"'><x/>"], "'starttls' holds 'x'"),
        (("ldap", "client"), [bytes.fromhex("300c02010178070a013404000400")], "answered with 52 unavailable ''"),
        (("ldap", "client"), [bytes.fromhex("300c02010278070a010004000400")], "answered with message 02"),
        (("ldap", "client"), [bytes.fromhex("300c02010161070a010004000400")], "of kind 0x61"),
        (("ldap", "client"), [bytes.fromhex("30050201017800")], "malformed BER"),
        (("ldap", "client"), [bytes.fromhex("3007020101780204 00".replace(" ", ""))], "has no result code"),
        (("ldap", "server"), [bytes.fromhex("30050201014200")], "the client left without TLS"),
        (("ldap", "server"), [bytes.fromhex("3080")], "no message of LDAP"),
        (("ldap", "server"), [bytes.fromhex("3084ffffffff")], "a message of 4294967295 bytes"),
        (("ldap", "server"), [bytes.fromhex("30050401014200")], "without a number"),
        (("ldap", "server"), [bytes.fromhex("30050201014300")], "no request of LDAP is of kind 0x43"),
        (("ldap", "server"), [bytes.fromhex("30050201016000") * (COMMANDS + 1)], f"{COMMANDS} requests"),
        (("postgres", "client"), [b"N"], "the server has no TLS"),
        (("postgres", "client"), [b"E"], "the server is no PostgreSQL"),
        (("postgres", "server"), [bytes.fromhex("0000000804d21630") * 2], "no request of PostgreSQL"),
        (("postgres", "server"), [bytes.fromhex("0000001004d2162e")], "to cancel something"),
        (("postgres", "server"), [bytes.fromhex("0000005400030000")], "began a session without TLS"),
        (("imap", "server"), None, "literal"),
    ],
)
def test_what_is_refused(key, heard, text):
    if heard is None:
        dialogue = up_to(key, 2)
        effects, _ = hear(dialogue, C, b"1 LOGIN {4+}\r\n")
    else:
        dialogue, effects = begin(key)
        for data in heard:
            more, _ = hear(dialogue, C, data)
            effects += more
    assert isinstance(effects[-1], Fail)
    assert effects[-1].side is C
    assert text in effects[-1].text


@pytest.mark.parametrize(
    ("name", "heard", "passed_on"),
    [
        ("smtp", b"554 go away\r\n", b"554 go away\r\n"),
        ("pop3", b"-ERR go away\r\n", b"-ERR go away\r\n"),
        ("imap", b"* PREAUTH\r\n", None),
        ("ftp", b"421 go away\r\n", b"421 go away\r\n"),
        ("nntp", b"400 go away\r\n", b"400 go away\r\n"),
    ],
)
def test_a_backend_that_refuses(name, heard, passed_on):
    dialogue, _ = begin((name, "server"))
    effects, _ = hear(dialogue, P, heard)
    texts, ends = said(effects)
    assert texts.get(C) == passed_on
    assert [end.side for end in ends] == [P]
