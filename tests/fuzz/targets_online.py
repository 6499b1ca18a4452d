"""Invariants of what comes from authorities, responders and web servers, and of URLs that certificates name.

Only what is signed by who may counts; what is read is what the library reads; nothing that is asked leaves what is
allowed; one exception type each.
"""

from __future__ import annotations

import re
from datetime import date
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fuzz import seeds
from tests.fuzz.target import Target, octets, text
from tlspool_broker import crls
from tlspool_common.errors import Code, PoolError
from tlspool_online import bounds, events, locator
from tlspool_online.chains import BadChain, Chains, identity_of
from tlspool_online.fetch import Fetcher, FetchError
from tlspool_online.lists import BadList, read_file_untrusted, read_untrusted, serial_der
from tlspool_online.locator import BadLocator, Locator
from tlspool_online.unreadable import UNREADABLE

_TAGS = (b"\x30\x80", b"\x30\x82", b"\x30\x84", b"\x02\x01", b"\x06\x03\x55\x1d", b"\x17\x0d", b"\x18\x0f", b"\x0a\x01")

# --- revocation lists -----------------------------------------------------------------------------------


@cache
def _ca():
    certificate = x509.load_der_x509_certificate(seeds.der("certificate-1-ca"))
    return certificate, identity_of(certificate)


@cache
def _signed_lists():
    return {x509.load_der_x509_crl(der).tbs_certlist_bytes for der in seeds.ders("list-")}


def _by_library(crl):
    """Return {serial: day since 1970} as the library reads the entries; None when it cannot."""
    try:
        return {serial_der(one.serial_number): _day(one.revocation_date_utc) for one in crl}
    except UNREADABLE:
        return None


def _day(when):
    return max(0, (when.date() - date(1970, 1, 1)).days)


def _check_list(data):
    try:
        found = read_untrusted(data)
    except BadList as error:
        assert 0 < len(str(error)) < 200
        found = None
    try:
        stored = crls.load(data)
    except PoolError as error:
        assert error.code is Code.RECORD_MALFORMED
        stored = None
    if found is None:
        return False
    assert all(len(serial) > 0 and value >= 0 and value % 16 < 16 for serial, value in found.revoked.items())
    crl = x509.load_der_x509_crl(data)
    listed = _by_library(crl)
    if listed is not None:
        assert {serial: value // 16 for serial, value in found.revoked.items()} == listed
    if stored is not None:
        assert stored.revocations.serials == frozenset(found.revoked)
    if not found.refusal(*_ca()):
        assert crl.tbs_certlist_bytes in _signed_lists()
    return True


def _check_list_file(data):
    try:
        found = read_file_untrusted(data)
    except BadList as error:
        assert 0 < len(str(error)) < 250
        return False
    assert 0 < len(found) <= bounds.LISTS_OF_FILE
    return True


def _list_files():
    pems = [x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in seeds.ders("list-")]
    return (b"".join(pems[:2]), b"text\n" + pems[0], seeds.der("list-some"))


# --- chains ---------------------------------------------------------------------------------------------


@cache
def _issued():
    return {x509.load_der_x509_certificate(der).tbs_certificate_bytes for der in seeds.ders("certificate-")}


def _check_chain(data):
    """As a leaf, and as the issuer."""
    taken = False
    for chain in ((data, seeds.der("certificate-1-ca")), (seeds.der("certificate-0-leaf"), data)):
        kept = Chains()
        try:
            (link,) = links = kept.links_untrusted(chain)
        except BadChain as error:
            assert 0 < len(str(error)) < 200
            continue
        taken = True
        assert kept.links_untrusted(chain) is links
        assert len(link.list_urls) <= 8 and len(link.responder_urls) <= 8
        if not link.fault:
            assert link.certificate.tbs_certificate_bytes in _issued()
    return taken


# --- URLs -----------------------------------------------------------------------------------------------

_PORTS = (80, 8080)
_HOST = re.compile(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]{2,45}")
_TARGET = re.compile(r"/[!-~]*")


def _is_followed(found):
    assert found.port in _PORTS and _HOST.fullmatch(found.host) and _TARGET.fullmatch(found.target)
    assert locator.parse_untrusted(found.url, _PORTS, 10_000) == found
    assert "#" not in found.target


def _check_locator(data):
    """A URL; and the same as what somebody is redirected to."""
    given = text(data)
    taken = False
    try:
        _is_followed(locator.parse_untrusted(given, _PORTS))
        taken = True
    except BadLocator as error:
        assert 0 < len(str(error)) < 200
    try:
        _is_followed(locator.redirected_untrusted(Locator("a.example", 80, "/x/y?z"), given, _PORTS))
        taken = True
    except BadLocator as error:
        assert 0 < len(str(error)) < 200
    if not locator.refusal(given, private=False):
        assert not re.match(r"(127|10|0|224|169\.254|192\.168)\.|fe80:|fc|fd|::ffff:(127|10)\.|::1?$", given.lower())
    return taken


# --- HTTP -----------------------------------------------------------------------------------------------


_REQUEST = re.compile(rb"(GET|POST) /[!-~]* HTTP/1\.1(\r\n[A-Za-z-]+: [ -~]*)+")


class _Writer:
    """Takes requests, which must be ones."""

    def __init__(self):
        self.transport = self
        self.said = b""

    def write(self, data):
        self.said += data

    async def drain(self):
        head, blank, _ = self.said.partition(b"\r\n\r\n")
        assert blank and _REQUEST.fullmatch(head)

    def abort(self):
        pass


class _Reader:
    """Says something, as much of it at a time as is asked for, and then that this is the end."""

    def __init__(self, said):
        self.said = said

    async def read(self, most_b):
        data, self.said = self.said[:most_b], self.said[most_b:]
        return data


class _Canned(Fetcher):
    """A Fetcher whose every connection says the same."""

    def __init__(self, said):
        super().__init__((80,), False, None)
        self.said = said

    async def _connect(self, place):
        assert _HOST.fullmatch(place.host)
        return _Reader(self.said), _Writer()


_ORDERS = [events.Fetch(1, events.Kind.RESPONSE, "http://a.example/b", post) for post in (b"", b"x")]


def _check_http(data):
    """The first octet says whether it is asked by POST; nothing ever waits, so no loop needs to run."""
    if not data:
        return False
    fetcher = _Canned(data[1:])
    asking = fetcher._follow(_ORDERS[data[0] & 1])
    try:
        asking.send(None)
    except StopIteration as end:
        body = end.value
    except (FetchError, BadLocator) as error:
        assert 0 < len(str(error)) < 2000
        assert fetcher.buffered_b == 0
        return False
    else:
        raise AssertionError("it waits")
    assert len(body) == fetcher.buffered_b <= bounds.RESPONSE_B
    return True


_ANSWERS = (
    b"\0HTTP/1.1 200 OK\r\nContent-Type: application/pkix-crl\r\nContent-Length: 5\r\n\r\nhello",
    b"\1HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n",
    b"\0HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
    b"\0HTTP/1.0 404 Not Found\r\n\r\nno",
    b"\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nContent-Encoding: identity\r\n\r\nrest",
)

TARGETS = (
    Target(
        "http-answer",
        "A body within its bounds, or FetchError; nothing stays counted; requests are requests, redirected or not.",
        _check_http,
        lambda: _ANSWERS,
        (
            b"\r\n",
            b"\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: ",
            b"Location: http://",
            b"HTTP/1.1 200 ",
        ),
        limit_b=2 * bounds.RESPONSE_B + bounds.HEAD_B,
    ),
    Target(
        "revocation-list",
        "BadList, or the entries as the library reads them; it is an issuer's only as that issuer has signed it.",
        _check_list,
        lambda: seeds.ders("list-"),
        _TAGS,
        der=0,
    ),
    Target(
        "revocation-list-file",
        "BadList, or lists, at most as many as are read of a file.",
        _check_list_file,
        _list_files,
        (b"-----BEGIN X509 CRL-----\n", b"-----END X509 CRL-----\n", *_TAGS),
        limit_b=1 << 20,
    ),
    Target(
        "chain-links",
        "BadChain, or a link; without fault only when the issuer has signed it so.",
        _check_chain,
        lambda: seeds.ders("certificate-"),
        _TAGS,
        der=0,
    ),
    Target(
        "locator",
        "BadLocator, or a place that is asked: a port, host and target that are allowed, whose URL reads the same.",
        _check_locator,
        lambda: tuple(
            map(
                octets,
                (
                    "http://a.example/c.crl",
                    "http://b.example:8080/?q",
                    "http://[2001:db8::1]/x",
                    "//c.example/",
                    "../up",
                    "?q",
                    "http://127.0.0.1/",
                    "192.0.2.1",
                    "fe80::1",
                    "::ffff:10.0.0.1",
                    "http://u@a/",
                ),
            )
        ),
        (b"http://", b"//", b"@", b":80", b"[", b"]", b"%", b"\\", b"#", b"?", b"..", b"xn--"),
        2048,
    ),
)
