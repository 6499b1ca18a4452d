"""Certificates of hostile authorities that are below a trusted root, and of holders with odd names.

Each is verified as in a handshake (rehearsal.py) and judged as the broker does: nobody passes for somebody else.
"""

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tlspool_broker.validation import facts
from tlspool_broker.validation.judgement import Source, judge
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import RemoteAuth, Side
from tlspool_worker.rehearsal import rehearse_untrusted

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
DNS, MAIL, IP = x509.DNSName, x509.RFC822Name, x509.IPAddress


class Made:
    """A certificate of a key of ours."""

    def __init__(self, name, issuer=None, *, key=0, ca=False, pathlen=None, more=(), until=30, san=(), akid=None):
        self.key = KEYS[key]
        above = issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 60 * DAY)
            .not_valid_after(NOW + until * DAY)
        )
        builder = builder.issuer_name(issuer.certificate.subject if issuer else builder._subject_name)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, pathlen), critical=True)
        if san:
            builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
        if akid is not None:
            builder = builder.add_extension(x509.AuthorityKeyIdentifier(akid, None, None), critical=False)
        for extension, critical in more:
            builder = builder.add_extension(extension, critical=critical)
        self.certificate = builder.sign(above.key, hashes.SHA256())
        self.der = self.certificate.public_bytes(Encoding.DER)
        self.chain = (self.der, *issuer.chain) if issuer else (self.der,)


def odd(kind, text):
    """A name that no library would write."""
    return kind._init_without_validation(text)


ROOT = Made("Root", key=0, ca=True)
CA = Made("Hostile", ROOT, key=1, ca=True)


def judged(leaf, expected="bank.example", text="", side=Side.CLIENT, anchors=None, chain=None, **context):
    shown = rehearse_untrusted(chain or leaf.chain[:-1], anchors or [ROOT.der], side)
    found = facts.from_shown(
        shown,
        facts.Context(
            side=side,
            remote_auth=RemoteAuth.REQUIRE,
            now_s=int(NOW.timestamp()),
            expected=parse_untrusted(expected) if expected else None,
            **context,
        ),
    )
    return judge([Source("localid", text)], found, {})


def constrained(permitted=None, excluded=None):
    return Made("Constrained", ROOT, key=1, ca=True, more=[(x509.NameConstraints(permitted, excluded), True)])


def test_the_usual():
    assert judged(Made("x", CA, key=2, san=[DNS("bank.example")])).outcome is True


CHAINS = {
    "a leaf that issues": lambda: Made("x", Made("leaf", CA, key=2), key=3, san=[DNS("bank.example")]),
    "an issuer that does not say it is one": lambda: Made(
        "x", Made("old", CA, key=2, ca=None), key=3, san=[DNS("bank.example")]
    ),
    "beyond the path length": lambda: Made(
        "x",
        Made("b", Made("a", ROOT, key=1, ca=True, pathlen=0), key=2, ca=True),
        key=3,
        san=[DNS("bank.example")],
    ),
    "an intermediate that has expired": lambda: Made(
        "x", Made("a", ROOT, key=1, ca=True, until=-1), key=2, san=[DNS("bank.example")]
    ),
    "outside of what is permitted": lambda: Made(
        "x", constrained([DNS("mine.example")]), key=2, san=[DNS("bank.example")]
    ),
    "inside of what is excluded": lambda: Made(
        "x", constrained(None, [DNS("bank.example")]), key=2, san=[DNS("bank.example")]
    ),
    "one permitted and one not": lambda: Made(
        "x", constrained([DNS("mine.example")]), key=2, san=[DNS("a.mine.example"), DNS("bank.example")]
    ),
    "an address outside": lambda: Made(
        "x",
        constrained([IP(ipaddress.ip_network("10.0.0.0/8"))]),
        key=2,
        san=[DNS("bank.example"), IP(ipaddress.ip_address("192.0.2.1"))],
    ),
    "a critical extension that nobody knows": lambda: Made(
        "x",
        CA,
        key=2,
        san=[DNS("bank.example")],
        more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0"), True)],
    ),
    "a key that may sign nothing": lambda: Made(
        "x",
        Made(
            "a",
            ROOT,
            key=1,
            ca=True,
            more=[(x509.KeyUsage(True, False, False, False, False, False, True, False, False), True)],
        ),
        key=2,
        san=[DNS("bank.example")],
    ),
    "a leaf that has expired": lambda: Made("x", CA, key=2, san=[DNS("bank.example")], until=-1),
    "the name of an issuer and another key": lambda: Made(
        "x", Made("Root", key=3, ca=True), key=2, san=[DNS("bank.example")]
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("text", ["", "T", "t", "TP|", "tp&", "TI&", "1", "T~", "TL|", "LF&", "1Tc~?"])
@pytest.mark.filterwarnings("ignore")
def test_chains(name, text):
    made = CHAINS[name]()
    found = judged(made, text=text, chain=made.chain)
    assert found.outcome is False, found


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("text", ["1", "t", "P", "p", "1T|", "TD|", "T~", "i", "II~|"])
@pytest.mark.filterwarnings("ignore")
def test_an_anchors_expression_mends_no_chain(name, text):
    """It is the anchor that the chain of somebody below it ends at."""
    made = CHAINS[name]()
    shown = rehearse_untrusted(made.chain, [ROOT.der], Side.CLIENT)
    context = facts.Context(Side.CLIENT, RemoteAuth.REQUIRE, int(NOW.timestamp()), parse_untrusted("bank.example"))
    for own in ("", "1", "LF&"):
        sources = [Source("localid", own), Source("trust", text, waives=False)]
        assert judge(sources, facts.from_shown(shown, context), {}).outcome is not True


NAMES = {
    "a common name only": ([], "bank.example"),
    "an address as a name": ([DNS("192.0.2.1")], "192.0.2.1"),
    "another address": ([IP(ipaddress.ip_address("192.0.2.2"))], "192.0.2.1"),
    "an address in IPv6": ([IP(ipaddress.ip_address("::ffff:192.0.2.1"))], "192.0.2.1"),
    "NUL": ([odd(DNS, "bank.example\0.evil.example")], "bank.example"),
    "NUL in front": ([odd(DNS, "\0bank.example")], "bank.example"),
    "a blank": ([odd(DNS, "bank.example ")], "bank.example"),
    "a line": ([odd(DNS, "evil.example\nbank.example")], "bank.example"),
    "two names in one": ([odd(DNS, "evil.example,bank.example")], "bank.example"),
    "a kind in a name": ([odd(DNS, "dns:bank.example")], "bank.example"),
    "a kind of another": ([odd(MAIL, "x dns:bank.example")], "bank.example"),
    "a wildcard of everything": ([DNS("*")], "bank.example"),
    "a wildcard of a top level": ([DNS("*.example")], "bank.example"),
    "a wildcard in a wildcard": ([DNS("*.*.example")], "www.bank.example"),
    "a part of a label": ([DNS("b*.bank.example")], "bb.bank.example"),
    "a wildcard within": ([DNS("www.*.example")], "www.bank.example"),
    "two levels below a wildcard": ([DNS("*.example.com")], "a.b.example.com"),
    "the level of a wildcard itself": ([DNS("*.bank.example")], "bank.example"),
    "a wildcard for users": ([DNS("*.bank.example")], "joe@www.bank.example"),
    "a domain for its users": ([DNS("bank.example")], "joe@bank.example"),
    "a user of the domain for the domain": ([MAIL("joe@bank.example")], "bank.example"),
    "a user for another": ([MAIL("joe@bank.example")], "jo@bank.example"),
    "two at": ([odd(MAIL, "joe@bank.example@evil.example")], "joe@bank.example"),
    "quoted": ([odd(MAIL, '"joe@bank.example"@evil.example')], "joe@bank.example"),
    "quoted user": ([odd(MAIL, '"joe"@bank.example')], "joe@bank.example"),
    "a comment": ([odd(MAIL, "joe@bank.example(evil)")], "joe@bank.example"),
    "NUL in a mailbox": ([odd(MAIL, "joe@bank.example\0@evil.example")], "joe@bank.example"),
    "a mailbox in brackets": ([odd(MAIL, "Joe <joe@bank.example>")], "joe@bank.example"),
    "everybody in a domain": ([odd(MAIL, "@bank.example")], "joe@bank.example"),
    "a whole domain": ([odd(MAIL, "bank.example")], "joe@bank.example"),
    "a mailbox of an authority": ([odd(MAIL, ".bank.example")], "joe@www.bank.example"),
    "a URL": ([x509.UniformResourceIdentifier("https://bank.example/")], "bank.example"),
    "a directory name": (
        [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank.example")]))],
        "bank.example",
    ),
    "another name": ([x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x0c\x0cbank.example")],
                     "bank.example"),
    "the first beyond those that are read": (
        [DNS(f"n{number}.evil.example") for number in range(limits.IDENTITY_NAMES)] + [DNS("bank.example")],
        "bank.example",
    ),
    "64 KiB of them": ([DNS(f"{'n' * 50}{number}.evil.example") for number in range(900)], "bank.example"),
    "longer than any name": ([odd(DNS, "bank.example." + "a" * 5000)], "bank.example"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_names(name):
    names, expected = NAMES[name]
    leaf = Made("bank.example", CA, key=2, san=names)
    for text in ("", "I", "TI&", "1Is~?"):
        found = judged(leaf, expected, text)
        assert (found.outcome, found.code) == (False, Code.NAME_MISMATCH), found
        assert found.detail.isprintable()
        assert len(found.detail.encode()) <= limits.PROSE_B
    assert judged(leaf, expected, "U").outcome is False


@pytest.mark.parametrize("text", ["\u202emoc.knab", "b\u0430nk.example", "bank.example\u200b", "\u2066x", "\x9b31m"])
def test_letters_that_look_otherwise(text):
    """What OpenSSL lets pass of names that are not ASCII is not shown as it is, and proves nothing."""
    leaf = Made(
        text[:20], CA, key=2, san=[DNS("a.evil.example"), odd(DNS, text) if text.isascii() else DNS("x.example")]
    )
    found = judged(leaf)
    assert found.outcome is False
    assert found.detail.isprintable()
    for line in found.trace:
        assert line.why.isprintable()


def test_a_hostile_authority_below_is_not_let_off_by_key_identifiers():
    """A leaf says that it is of the root: OpenSSL looks for an issuer that is, and there is none."""
    root = Made("Root", key=0, ca=True, more=[(x509.SubjectKeyIdentifier(b"r" * 20), False)])
    ca = Made("Hostile", root, key=1, ca=True, more=[(x509.SubjectKeyIdentifier(b"h" * 20), False)])
    leaf = Made("x", ca, key=2, san=[DNS("bank.example")], akid=b"r" * 20)
    assert judged(leaf, anchors=[root.der]).code is Code.CHAIN_UNTRUSTED
    leaf = Made("x", ca, key=2, san=[DNS("bank.example")], akid=b"h" * 20)
    assert judged(leaf, anchors=[root.der]).outcome is True


class Stored:
    """What is revoked, by the issuer's key identifier."""

    def __init__(self, **lists):
        self.lists = {key.encode().ljust(20, key.encode()): value for key, value in lists.items()}

    def pins(self, _remote):
        return ()

    def revocations(self, key):
        return self.lists.get(key)


class Revoking:
    this_update_s = int((NOW - DAY).timestamp())
    next_update_s = int((NOW + DAY).timestamp())

    def __init__(self, *serials):
        self.serials = frozenset(one.to_bytes(one.bit_length() // 8 + 1, "big", signed=True) for one in serials)


def test_a_revoked_intermediate_and_lists_that_vouch_for_half_a_chain():
    root = Made("Root", key=0, ca=True, more=[(x509.SubjectKeyIdentifier(b"r" * 20), False)])
    ca = Made("CA", root, key=1, ca=True, akid=b"r" * 20, more=[(x509.SubjectKeyIdentifier(b"h" * 20), False)])
    leaf = Made("x", ca, key=2, san=[DNS("bank.example")], akid=b"h" * 20)
    of_ca, of_leaf = ca.certificate.serial_number, leaf.certificate.serial_number
    for stored in (
        Stored(r=Revoking(of_ca)),
        Stored(r=Revoking(of_ca), h=Revoking()),
        Stored(h=Revoking(of_leaf)),
    ):
        for text in ("R", "r", "O", "o", "TR&"):
            assert judged(leaf, text=text, anchors=[root.der], stored=stored).code is Code.REVOKED
    assert judged(leaf, text="R", anchors=[root.der], stored=Stored(r=Revoking(), h=Revoking())).outcome is True
    others = Stored(h=Revoking(of_ca), r=Revoking(of_leaf))  # numbers are each issuer's own
    assert judged(leaf, text="R", anchors=[root.der], stored=others).outcome is True
    for stored in (Stored(r=Revoking()), Stored(h=Revoking())):
        assert judged(leaf, text="R", anchors=[root.der], stored=stored).outcome is not True


def test_a_list_is_not_good_beyond_its_day():
    root = Made("Root", key=0, ca=True, more=[(x509.SubjectKeyIdentifier(b"r" * 20), False)])
    leaf = Made("x", root, key=2, san=[DNS("bank.example")], akid=b"r" * 20)
    old, none, future = Revoking(), Revoking(), Revoking()
    old.next_update_s = int((NOW - DAY).timestamp()) + 1
    none.next_update_s = 0
    future.this_update_s = int((NOW + DAY).timestamp()) - 1
    for one in (old, none, future):
        assert judged(leaf, text="R", anchors=[root.der], stored=Stored(r=one)).outcome is not True
        one.serials = Revoking(leaf.certificate.serial_number).serials
        assert judged(leaf, text="r", anchors=[root.der], stored=Stored(r=one)).code is Code.REVOKED
