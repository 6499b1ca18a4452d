"""Invariants of what comes before TLS, and of files that operators are given.

A conversation ends in TLS or in a refusal, never in an exception; a header or a file is read or refused by one
exception type; nothing that was heard can break a line of what is said.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fuzz import seeds
from tests.fuzz.target import TOKEN_B, Target, octets, text
from tests.playbook.preambles import STORIES, begin
from tlspool_admin import chains, client, files, where
from tlspool_admin.commands import disclose
from tlspool_admin.preambles import proxyheader, via
from tlspool_admin.preambles.script import LINE_B, TOTAL_B, Dialogue, Ended, Fail, Received, Say, Secure, Side
from tlspool_common import settings
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import SettingError

# --- conversations --------------------------------------------------------------------------------------

_BETWEEN = b"\xff\xfe\xff"
"""Between what the one side says and what the other does."""


def _play(dialogue, effects, data, pieces_b):
    """Play until it is over, or nothing is left to be said; return all effects.

    Every second piece is one octet, the others are as long as they may: so a piece can end anywhere, and a long input
    still comes in few pieces.
    """
    crypt, _, plain = data.partition(_BETWEEN)
    said = {Side.CRYPT: 0, Side.PLAIN: 0}
    most_b, next_b = pieces_b, 1
    while not dialogue.over:
        side, size_b = dialogue.wants
        assert 0 < size_b <= _MOST_B
        tape, at = crypt if side is Side.CRYPT else plain, said[side]
        part = tape[at : at + min(size_b, most_b)]
        most_b, next_b = next_b, most_b
        if not part:
            effects += dialogue.handle(Ended(side))
            break
        said[side] = at + len(part)
        effects += dialogue.handle(Received(side, part))
    assert dialogue.over and dialogue.wants is None
    assert sum(said.values()) <= TOTAL_B + LINE_B
    end = effects[-1]
    assert isinstance(end, (Secure, Fail)) and all(isinstance(effect, Say) for effect in effects[:-1])
    assert isinstance(end, Secure) or len(end.text) < 500
    return effects


_MOST_B = max(LINE_B, 4096, proxyheader.V2_B)


_LINES = re.compile(rb"(?:[^\r\n]*\r\n)+")
_BINARY = ("xmpp", "xmpp-server", "ldap", "postgres")


def _preamble(name):
    """The first octet: lowest bit the role, the rest the size of every second piece."""
    roles = [key for key in sorted(STORIES) if key[0] == name]

    def check(data):
        if not data:
            return False
        key = roles[(data[0] & 1) % len(roles)]
        dialogue, effects = begin(key)
        effects = _play(dialogue, effects, data[1:], 16 + (data[0] >> 1) * 40)
        for effect in effects:
            if isinstance(effect, Say) and name not in _BINARY:
                assert _LINES.fullmatch(effect.data)
        if not isinstance(effects[-1], Secure):
            return False
        assert effects[-1].opening == STORIES[key].opening or key == ("nntp", "client")
        return True

    def made():
        for number, key in enumerate(roles):
            story = STORIES[key]
            crypt, plain = (
                b"".join(data for side, data, _ in story.steps if side is one) for one in (Side.CRYPT, Side.PLAIN)
            )
            yield bytes((number | 0xFE,)) + crypt + _BETWEEN + plain

    return Target(
        f"preamble-{name}",
        "Effects, never an exception; one end; TLS only upon an agreement with nothing behind it; no more is read than "
        "may be; nothing heard breaks a line of what is said.",
        check,
        made,
        (
            b"\r\n",
            b"\n",
            b"250-STARTTLS",
            b"STARTTLS",
            b"* OK ",
            b"+OK ",
            b"OK ",
            b"{9+}",
            b"<",
            b"/>",
            b"xmlns=",
            b"\x30",
            *dict.fromkeys(said for key in roles for _, said, _ in STORIES[key].steps if len(said) <= TOKEN_B),
        ),
        600,
    )


_VIA = via.Target("x.example", 1, "a", "b")


def _check_via(data):
    """The first octet chooses the way."""
    if not data:
        return False
    way = list(via.WAYS.values())[data[0] % len(via.WAYS)]

    def script():
        yield from way(_VIA)
        return b""

    dialogue = Dialogue(script())
    return isinstance(_play(dialogue, dialogue.start(), data[1:], 10**6)[-1], Secure)


# --- PROXY ----------------------------------------------------------------------------------------------


def _origin_of(data):
    """Return (whether a header was read, what it says)."""
    told = []

    def script():
        told.append((yield from proxyheader.read(Side.CRYPT)))
        return b""

    dialogue = Dialogue(script())
    effects = _play(dialogue, dialogue.start(), data, 10**6)
    return isinstance(effects[-1], Secure), told[0] if told else None


def _check_proxy(data):
    taken, origin = _origin_of(data)
    if not taken or origin is None:
        return taken
    for address, port in (origin.source, origin.destination):
        assert str(ipaddress.ip_address(address)) == address and "%" not in address
        assert 0 <= port <= 65535
    for version in ("v1", "v2"):
        assert _origin_of(proxyheader.write(version, origin)) == (True, origin)
    return True


def _proxy_seeds():
    four = proxyheader.Origin(("192.0.2.7", 50412), ("198.51.100.1", 443))
    six = proxyheader.Origin(("2001:db8::7", 1), ("::ffff:192.0.2.1", 65535))
    for version in ("v1", "v2"):
        yield from (proxyheader.write(version, origin) for origin in (four, six, None))
    yield proxyheader.write("v2", four, proxyheader.Proved("a@b.example"))
    yield proxyheader.SIGNATURE + b"\x20\0\0\0"


# --- files ----------------------------------------------------------------------------------------------


def _refused(error, code):
    assert error.code is code, error
    assert 0 < len(str(error)) < 1000


def _check_file(data):
    """A file of certificates; and the same as one certificate."""
    taken = False
    try:
        certificate = chains.load_untrusted(data)
        assert isinstance(chains.may_issue(certificate), bool)
        assert all("*" not in name for name in chains.identities(certificate))
        taken = True
    except PoolError as error:
        _refused(error, Code.RECORD_MALFORMED)
    try:
        found = files.contents_untrusted(data, "it")
    except PoolError as error:
        _refused(error, Code.RECORD_MALFORMED)
        return taken
    assert all(isinstance(one, bytes) for one in (*found.certificates, *found.lists))
    try:
        assert chains.chain_of(found.certificates[:6])
    except PoolError as error:
        _refused(error, Code.RECORD_MALFORMED)
    return bool(found.certificates or found.lists or found.has_key)


def _files():
    certificates = [x509.load_der_x509_certificate(der) for der in seeds.ders("certificate-")]
    pems = [each.public_bytes(Encoding.PEM) for each in certificates]
    yield from seeds.ders("file-")
    yield from seeds.ders("certificate-")
    yield seeds.der("list-empty")
    yield b"x\n" + pems[0] + pems[1] + b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"
    yield pems[1].replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE")
    yield x509.load_der_x509_crl(seeds.der("list-some")).public_bytes(Encoding.PEM)
    yield seeds.der("certificate-0-leaf") + seeds.der("certificate-1-ca")


def _check_where(data):
    values = where.values_untrusted(data)
    assert all(key and " " not in key and "\n" not in key + value for key, value in values.items())
    found = where.run_dir_untrusted(data)
    assert isinstance(found, Path) and "\0" not in str(found)
    return "run_dir" in values


def _check_disclose(data):
    try:
        operations = disclose.lines_untrusted(data, "it")
    except PoolError as error:
        _refused(error, Code.FIELD_MALFORMED)
        return False
    assert operations and all(each["ids"] and each["selector"] for each in operations)
    return True


def _check_answer(data):
    try:
        answer = client.answer_untrusted(data, Path("/x"))
    except client.NotReachable:
        return False
    except client.Refused as error:
        return isinstance(error.code, Code)
    return answer["ok"] is True


CONFIGURATION = (
    "# comment\nrun_dir /run/x\nsocket_mode 0660\npkcs11_path /a.so\npkcs11_token pkcs11:token=t\nworkers 3\n"
    "tls_min_version 1.2\ntls_ciphers12 ECDHE+AESGCM\nhandshake_timeout_s 1.5\nallow_facilities starttls, *\n"
    "isolation pool\nbroker_user 0\n"
)
_SECRET = "s3cretPIN"


def _check_settings(data):
    """A configuration; a PIN in it is never shown, by an error or by what an operator sees."""
    given = text(data)
    for configuration in (f"pkcs11_pin {_SECRET}\n{given}", given):
        found, problems, warnings = settings.read_untrusted(configuration)
        assert (found is None) == bool(problems)
        told = [str(SettingError.of(problems))] if problems else []
        told += warnings + [str(row) for row in (found.rows() if found else ())]
        assert _SECRET in given or not any(_SECRET in line for line in told)
    if found is None:
        return False
    part = tuple(settings.Part)[len(given) % 3]
    names = {row["name"] for row in settings.parse_untrusted(given, part).rows()}
    assert names <= {row["name"] for row in found.rows()}
    return True


TARGETS = (
    *(_preamble(name) for name in sorted({key[0] for key in STORIES})),
    Target(
        "proxy-header",
        "A header is read to its last byte, or refused; addresses are plain ones, and written anew they read the same.",
        _check_proxy,
        _proxy_seeds,
        (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", proxyheader.SIGNATURE, b"\r\n", b"%", b"::1", b" 1 "),
        2100,
    ),
    Target(
        "proxy-answer",
        "Answers of HTTP and SOCKS proxies: a way through, or a refusal.",
        _check_via,
        lambda: (
            b"\0HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
            b"\1\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
            b"\1\x05\x02\x01\x00\x05\x00\x00\x03\x02ab\x00\x00",
        ),
        (b"\r\n", b"HTTP/1.1 200 ", b"\5\0\0\1", b"\5\0\0\4", b"\5\2\1\0"),
        1024,
    ),
    Target(
        "certificate-file",
        "RECORD_MALFORMED, or certificates and lists; no private key is taken.",
        _check_file,
        _files,
        (b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"-----BEGIN PKCS7-----\n", b"\x30\x82"),
        limit_b=1 << 20,  # sixty times more is read, but no longer than that takes need a test wait
        der=0,
    ),
    Target(
        "control-answer",
        "An answer that says ok, or NotReachable, or Refused with a code that there is.",
        _check_answer,
        lambda: (
            b'{"ok": true, "x": [1, {"y": null}]}\n',
            b'{"ok": false, "code": 103, "error": "no"}\n',
            b'{"ok": 1, "code": 77777777777777777777777, "error": ["x"]}\n',
        ),
        (b'"ok": true', b'"code": ', b"[[[[", b"]]]]", b"{", b"}\n", b"null", b"1e999"),
    ),
    Target(
        "where",
        "Keywords and values of any file; a path without NUL.",
        _check_where,
        lambda: (b"run_dir /run/x\n# y\nworkers 3\n",),
        (b"run_dir ", b"\n", b" ", b"#", b"\0"),
        limit_b=1 << 20,
    ),
    Target(
        "disclosures-file",
        "FIELD_MALFORMED, or operations that each have a selector and identities.",
        _check_disclose,
        lambda: (b".example =TR& a@b.example c\n# x\n. d\n",),
        (b"=", b"\n", b" ", b"#"),
        limit_b=1 << 20,
    ),
    Target(
        "settings",
        "Settings, or problems, each of which can be shown; a PIN is never shown.",
        _check_settings,
        lambda: (octets(CONFIGURATION),),
        tuple(f"{name} ".encode() for name in sorted(settings.BY_NAME))
        + (b"\n", b"1.2", b"pkcs11:", b"access ", b"= "),
        2048,
    ),
)
