"""Conversations before TLS as they should go, and what plays them."""

from dataclasses import dataclass

from tlspool_admin.preambles import PROTOCOLS
from tlspool_admin.preambles.protocol import Names
from tlspool_admin.preambles.script import Dialogue, Received, Say, Side

C, P = Side.CRYPT, Side.PLAIN
NAMES = Names("mail.example", "n1")
STREAMS = b"xmlns:stream='http://etherx.jabber.org/streams'"
TLS = b"urn:ietf:params:xml:ns:xmpp-tls"
OID = b"1.3.6.1.4.1.1466.20037"
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass(frozen=True)
class Story:
    """A conversation that ends well: what is heard from whom, and what is said upon it, to whom."""

    first: tuple  # what is said before anything is heard
    steps: tuple  # (side, heard, ((side, said), ...))
    opening: bytes = b""
    reads_exactly: bool = False


def stream(content, attributes):
    return (
        b"<?xml version='1.0'?><stream:stream "
        + attributes
        + b" version='1.0' xmlns='"
        + content
        + b"' "
        + STREAMS
        + b">"
    )


STORIES = {
    ("smtp", "client"): Story(
        (),
        (
            (C, b"220-mail\r\n220 hi\r\n", ((C, b"EHLO localhost\r\n"),)),
            (C, b"250-mail\r\n250-SIZE 10\r\n250 starttls\r\n", ((C, b"STARTTLS\r\n"),)),
            (C, b"220 go\r\n", ()),
        ),
        b"220 mail.example ESMTP\r\n",
    ),
    ("smtp", "server"): Story(
        (),
        (
            (P, b"220 mail ESMTP x\r\n", ((P, b"EHLO localhost\r\n"),)),
            (
                P,
                b"250-mail hello you\r\n250-8BITMIME\r\n250-AUTH PLAIN\r\n"
                b"250-XCLIENT NAME\r\n250-STARTTLS\r\n250 SIZE 9\r\n",
                ((C, b"220 mail ESMTP x\r\n"),),
            ),
            (C, b"ehlo you.example\r\n", ((C, b"250-mail\r\n250-8BITMIME\r\n250-SIZE 9\r\n250 STARTTLS\r\n"),)),
            (C, b"starttls\r\n", ((C, b"220 2.0.0 Ready to start TLS\r\n"),)),
        ),
    ),
    ("lmtp", "client"): Story(
        (),
        (
            (C, b"220 hi\r\n", ((C, b"LHLO localhost\r\n"),)),
            (C, b"250-mail\r\n250 STARTTLS\r\n", ((C, b"STARTTLS\r\n"),)),
            (C, b"220 go\r\n", ()),
        ),
        b"220 mail.example LMTP\r\n",
    ),
    ("lmtp", "server"): Story(
        (),
        (
            (P, b"220 mail\r\n", ((P, b"LHLO localhost\r\n"),)),
            (P, b"500 what\r\n", ((C, b"220 mail\r\n"),)),
            (C, b"LHLO x\r\n", ((C, b"250-mail\r\n250 STARTTLS\r\n"),)),
            (C, b"STARTTLS\r\n", ((C, b"220 2.0.0 Ready to start TLS\r\n"),)),
        ),
    ),
    ("pop3", "client"): Story(
        (), ((C, b"+OK hi\r\n", ((C, b"STLS\r\n"),)), (C, b"+OK\r\n", ())), b"+OK mail.example\r\n"
    ),
    ("pop3", "server"): Story(
        (),
        (
            (P, b"+OK hi <1@x>\r\n", ((P, b"CAPA\r\n"),)),
            (P, b"+OK\r\nTOP\r\nUSER\r\nSTLS\r\n..x\r\n.\r\n", ((C, b"+OK hi <1@x>\r\n"),)),
            (C, b"CAPA\r\n", ((C, b"+OK\r\nTOP\r\n.x\r\nSTLS\r\n.\r\n"),)),
            (C, b"STLS\r\n", ((C, b"+OK Begin TLS\r\n"),)),
        ),
    ),
    ("imap", "client"): Story(
        (),
        (
            (C, b"* OK [CAPABILITY IMAP4rev1 EVIL] hi\r\n", ((C, b"a1 STARTTLS\r\n"),)),
            (C, b"* OK still here\r\na1 OK go\r\n", ()),
        ),
        b"* OK mail.example\r\n",
    ),
    ("imap", "server"): Story(
        (),
        (
            (P, b"* OK hi\r\n", ((P, b"a1 CAPABILITY\r\n"),)),
            (
                P,
                b"* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN STARTTLS SASL-IR\r\na1 OK\r\n",
                ((C, b"* OK [CAPABILITY IMAP4rev1 IDLE STARTTLS LOGINDISABLED] mail.example\r\n"),),
            ),
            (C, b"1 capability\r\n", ((C, b"* CAPABILITY IMAP4rev1 IDLE STARTTLS LOGINDISABLED\r\n1 OK Done\r\n"),)),
            (C, b"2 STARTTLS\r\n", ((C, b"2 OK Begin TLS negotiation now\r\n"),)),
        ),
    ),
    ("ftp", "client"): Story(
        (), ((C, b"220-a\r\nb\r\n220 c\r\n", ((C, b"AUTH TLS\r\n"),)), (C, b"234 go\r\n", ())), b"220 mail.example\r\n"
    ),
    ("ftp", "server"): Story(
        (),
        (
            (P, b"220 hi\r\n", ((P, b"FEAT\r\n"),)),
            (P, b"211-Features:\r\n EPSV\r\n AUTH TLS\r\n PROT\r\n211 End\r\n", ((C, b"220 hi\r\n"),)),
            (C, b"AUTH SSL\r\n", ((C, b"504 Only AUTH TLS\r\n"),)),
            (C, b"FEAT\r\n", ((C, b"211-Features:\r\n EPSV\r\n AUTH TLS\r\n211 End\r\n"),)),
            (C, b"auth tls\r\n", ((C, b"234 Begin TLS\r\n"),)),
        ),
    ),
    ("nntp", "client"): Story(
        (), ((C, b"201 hi\r\n", ((C, b"STARTTLS\r\n"),)), (C, b"382 go\r\n", ())), b"201 mail.example\r\n"
    ),
    ("nntp", "server"): Story(
        (),
        (
            (P, b"200 hi\r\n", ((P, b"CAPABILITIES\r\n"),)),
            (P, b"101 list\r\nVERSION 2\r\nAUTHINFO USER\r\n.\r\n", ((C, b"200 hi\r\n"),)),
            (C, b"CAPABILITIES\r\n", ((C, b"101 Capabilities:\r\nVERSION 2\r\nSTARTTLS\r\n.\r\n"),)),
            (C, b"STARTTLS\r\n", ((C, b"382 Begin TLS negotiation now\r\n"),)),
        ),
    ),
    ("sieve", "client"): Story(
        (),
        (
            (C, b'"IMPLEMENTATION" "x"\r\n"StartTLS"\r\nOK "hi"\r\n', ((C, b"STARTTLS\r\n"),)),
            (C, b'OK "go"\r\n', ()),
        ),
    ),
    ("sieve", "server"): Story(
        ((C, b'"IMPLEMENTATION" "tlspool"\r\n"SIEVE" ""\r\n"STARTTLS"\r\n"VERSION" "1.0"\r\nOK\r\n'),),
        ((C, b"NOOP\r\n", ((C, b"OK\r\n"),)), (C, b"STARTTLS\r\n", ((C, b"OK\r\n"),))),
    ),
    ("irc", "client"): Story(
        ((C, b"STARTTLS\r\n"),), ((C, b":x NOTICE * :looking you up\r\n:x 670 * :go\r\n", ()),)
    ),
    ("irc", "server"): Story(
        (),
        (
            (C, b"CAP LS 302\r\n", ((C, b":mail.example CAP * LS :tls\r\n"),)),
            (C, b"CAP REQ :tls\r\n", ((C, b":mail.example CAP * ACK :tls\r\n"),)),
            (C, b"STARTTLS\r\n", ((C, b":mail.example 670 * :STARTTLS successful, proceed with TLS handshake\r\n"),)),
        ),
    ),
    ("xmpp", "client"): Story(
        ((C, stream(b"jabber:client", b"to='mail.example'")),),
        (
            (
                C,
                stream(b"jabber:client", b"from='x' id='1'")
                + b" <stream:features><starttls xmlns='" + TLS + b"'><required/></starttls>"
                b"<m xmlns='y'><n>PLAIN</n></m></stream:features>",
                ((C, b"<starttls xmlns='" + TLS + b"'/>"),),
            ),
            (C, b"<proceed xmlns='" + TLS + b"'/>", ()),
        ),
    ),
    ("xmpp", "server"): Story(
        (),
        (
            (
                C,
                stream(b"jabber:client", b"to='Mail.Example'"),
                (
                    (C, stream(b"jabber:client", b"from='mail.example' id='n1'")),
                    (
                        C,
                        b"<stream:features><starttls xmlns='" + TLS + b"'><required/></starttls></stream:features>",
                    ),
                ),
            ),
            (C, b"\n<starttls xmlns='" + TLS + b"'></starttls>", ((C, b"<proceed xmlns='" + TLS + b"'/>"),)),
        ),
    ),
    ("xmpp-server", "client"): Story(
        ((C, stream(b"jabber:server", b"to='mail.example'")),),
        (
            (
                C,
                stream(b"jabber:server", b"id='1'")
                + b"<stream:features><t:starttls xmlns:t='" + TLS + b"'/></stream:features>",
                ((C, b"<starttls xmlns='" + TLS + b"'/>"),),
            ),
            (C, b"<proceed xmlns='" + TLS + b"'></proceed>", ()),
        ),
    ),
    ("xmpp-server", "server"): Story(
        (),
        (
            (
                C,
                stream(b"jabber:server", b"from='other'"),
                (
                    (C, stream(b"jabber:server", b"from='mail.example' id='n1'")),
                    (
                        C,
                        b"<stream:features><starttls xmlns='" + TLS + b"'><required/></starttls></stream:features>",
                    ),
                ),
            ),
            (C, b"<starttls xmlns='" + TLS + b"'/>", ((C, b"<proceed xmlns='" + TLS + b"'/>"),)),
        ),
    ),
    ("ldap", "client"): Story(
        ((C, b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + OID),),
        ((C, bytes.fromhex("308400000012020101788400000009" "0a0100" "0400" "0400" "8a00"), ()),),
        reads_exactly=True,
    ),
    ("ldap", "server"): Story(
        (),
        (
            (
                C,
                bytes.fromhex("300c0201056007020103040080" "00"),
                ((C, b"\x30\x20\x02\x01\x05\x61\x1b\x0a\x01\x0d\x04\x00\x04\x14StartTLS comes first"),),
            ),
            (
                C,
                b"\x30\x1d\x02\x01\x02\x77\x18\x80\x16" + OID,
                ((C, b"\x30\x24\x02\x01\x02\x78\x1f\x0a\x01\x00\x04\x00\x04\x00\x8a\x16" + OID),),
            ),
        ),
        reads_exactly=True,
    ),
    ("postgres", "client"): Story(((C, SSL_REQUEST),), ((C, b"S", ()),), reads_exactly=True),
    ("postgres", "server"): Story(
        (),
        ((C, bytes.fromhex("0000000804d21630"), ((C, b"N"),)), (C, SSL_REQUEST, ((C, b"S"),))),
        reads_exactly=True,
    ),
}  # fmt: skip


def begin(key):
    name, role = key
    dialogue = Dialogue(getattr(PROTOCOLS[name], role)(NAMES))
    return dialogue, dialogue.start()


def hear(dialogue, side, data, chunk_b=10**6):
    """Give data as it can be read: in pieces, from the side that is listened to, and no more than is wanted."""
    effects = []
    while data and not dialogue.over:
        wanted, size_b = dialogue.wants
        assert wanted is side
        assert size_b > 0
        part, data = data[: min(size_b, chunk_b)], data[min(size_b, chunk_b) :]
        effects += dialogue.handle(Received(side, part))
    return effects, data


def said(effects):
    """Return what is said, joined by side, and the end."""
    texts = {}
    for effect in effects:
        if isinstance(effect, Say):
            texts[effect.side] = texts.get(effect.side, b"") + effect.data
    return texts, [effect for effect in effects if not isinstance(effect, Say)]


def joined(pairs):
    texts = {}
    for side, data in pairs:
        texts[side] = texts.get(side, b"") + data
    return texts


def up_to(key, number):
    """Play a story up to a step."""
    dialogue, _ = begin(key)
    for side, data, _ in STORIES[key].steps[:number]:
        hear(dialogue, side, data)
    return dialogue


def points(key):
    """Return each point of a story at which something is to be heard."""
    return range(len(STORIES[key].steps))
