"""Checks of the databases: keys, certificates and chains of ours, disclosures, anchors.

Everything here is a function of what broker and keyd answered.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tlspool_admin import chains
from tlspool_admin.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from tlspool_admin.table import objects, texts
from tlspool_common.errors import PoolError
from tlspool_keyd.pkcs11uri import Pkcs11Uri, parse_untrusted

Object = Mapping[str, object]

_SOON = timedelta(days=30)
"""When an expiry is worth a warning, unless the certificate never had that long: then its last third."""

_OBJECT_ATTRIBUTES = ("object", "id", "type")


def keys(identities: Iterable[Object], held: Sequence[Object] | None) -> list[Finding]:
    """Check that each key that the databases name is on a token, is one, and can be used; ``held``: keyd's list."""
    if held is None:
        return []
    found = []
    uris = [_uri(str(row.get("uri", ""))) for row in held]
    for entry in identities:
        identity = str(entry.get("id"))
        for record in _x509(entry):
            text = str(record.get("uri", ""))
            wanted = _uri(text)
            if wanted is None:
                remedy = "tlspool localid set, with the URI that `tlspool keys` shows"
                found.append(Finding(ERROR, "keys", identity, f"{text!r} is no URI of a key", remedy))
                continue
            rows = [row for row, uri in zip(held, uris, strict=True) if uri is not None and _covers(wanted, uri)]
            found.append(_key(identity, text, rows))
    return found


def _key(identity: str, uri: str, rows: Sequence[Object]) -> Finding:
    if not rows:
        remedy = "import the key into the token, or name the one that is there (`tlspool keys`, `tlspool localid set`)"
        return Finding(ERROR, "keys", identity, f"no token has the key {uri}", remedy)
    if len(rows) > 1:
        return Finding(ERROR, "keys", identity, f"{len(rows)} keys fit {uri}", "add an id to the URI (`tlspool keys`)")
    if rows[0].get("usable") is False:
        text = f"the key {uri} cannot be used: {rows[0].get('trouble')}"
        return Finding(ERROR, "keys", identity, text, "it has to be a private key that may sign (CKA_SIGN)")
    return Finding(OK, "keys", identity, "the key is on a token")


def _uri(text: str) -> Pkcs11Uri | None:
    try:
        return parse_untrusted(text)
    except PoolError:
        return None


def _covers(wanted: Pkcs11Uri, held: Pkcs11Uri) -> bool:
    """Whether what is held is what is wanted: each attribute that the wish has is the same."""
    return all(
        held.attributes.get(name) == value for name, value in wanted.attributes.items() if name != "type"
    ) and any(name in wanted.attributes for name in _OBJECT_ATTRIBUTES)


def matching(identities: Iterable[Object], answers: Mapping[str, Object]) -> list[Finding]:
    """Check that keys and certificates belong together; ``answers`` are keyd's about URIs: ``code``, ``spki``."""
    found = []
    for entry in identities:
        identity = str(entry.get("id"))
        for record in _x509(entry):
            answer = answers.get(str(record.get("uri")))
            certificate = next(iter(_chain(record)), None)
            if answer is None or certificate is None or not answer.get("spki"):
                continue
            if answer["spki"] != _spki(certificate):
                text = "the key on the token is not the one that the certificate is for"
                remedy = "get a certificate for this key, or name the right key (`tlspool localid set`)"
                found.append(Finding(ERROR, "keys", identity, text, remedy))
    return found


def _spki(certificate: x509.Certificate) -> str:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
    except (ValueError, UnsupportedAlgorithm):
        return ""


def certificates(identities: Iterable[Object], anchors: Sequence[x509.Certificate], now: datetime) -> list[Finding]:
    """Check our own certificates: readable, in date, whole chains, naming the identity."""
    found = []
    listed = list(identities)
    for entry in listed:
        identity = str(entry.get("id"))
        found += [
            Finding(ERROR, "certificates", identity, text, "tlspool localid set, anew")
            for text in texts(entry.get("malformed"))
        ]
        for record in _x509(entry):
            chain = _chain(record)
            if record.get("malformed") or not chain:
                text = str(record.get("malformed") or "the record has no certificate")
                found.append(Finding(ERROR, "certificates", identity, text, "tlspool localid set, anew"))
                continue
            doubts = [*_dates(identity, chain, now), *_names(identity, chain[0]), *_whole(identity, chain, anchors)]
            until = min(one.not_valid_after_utc for one in chain)
            found += doubts or [Finding(OK, "certificates", identity, f"valid until {until:%Y-%m-%d}")]
    if not listed:
        remedy = "tlspool localid import CERTFILE"
        found.append(Finding(WARNING, "certificates", "", "there are no local identities: no server can run", remedy))
    return found


def _dates(identity: str, chain: Sequence[x509.Certificate], now: datetime) -> list[Finding]:
    found = []
    renew = "get a new certificate, and `tlspool localid import` it"
    for number, one in enumerate(chain):
        who = "the certificate" if number == 0 else f"{chains.subject(one)}, in the chain,"
        start, end = one.not_valid_before_utc, one.not_valid_after_utc
        if now > end:
            found.append(Finding(ERROR, "certificates", identity, f"{who} expired on {end:%Y-%m-%d}", renew))
        elif now < start:
            text = f"{who} is not valid before {start:%Y-%m-%d %H:%M} UTC"
            found.append(Finding(ERROR, "certificates", identity, text, "wait, or set the clock of this host"))
        elif end - now < min(_SOON, (end - start) / 3):
            text = f"{who} expires on {end:%Y-%m-%d}, in {(end - now).days} days"
            found.append(Finding(WARNING, "certificates", identity, text, renew))
    return found


def _names(identity: str, leaf: x509.Certificate) -> list[Finding]:
    names = chains.identities(leaf)
    domain = identity.rpartition("@")[2]
    if identity.lower() in {name.lower() for name in names} or _wildcard(leaf, domain):
        return []
    if domain.lower() in {name.lower() for name in names}:
        return []  # a domain may speak for its users, where the application allows it
    text = f"the certificate names {', '.join(names) or 'nobody'}: remotes that look for {identity} will refuse"
    return [Finding(WARNING, "certificates", identity, text, "get a certificate with this subjectAltName")]


def _wildcard(leaf: x509.Certificate, domain: str) -> bool:
    return f"*.{domain.partition('.')[2]}".lower() in {name.lower() for name in chains.dns_names(leaf)}


def _whole(identity: str, chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]) -> list[Finding]:
    for number, (lower, upper) in enumerate(itertools.pairwise(chain), 1):
        if not chains.issued_by(lower, upper):
            text = f"certificate {number} of the chain was not issued by number {number + 1}"
            remedy = "tlspool localid import FILE puts a chain in order"
            return [Finding(ERROR, "certificates", identity, text, remedy)]
    last = chain[-1]
    if chains.is_root(last):
        if len(chain) == 1 and not chains.may_issue(last):
            return [
                Finding(NOTE, "certificates", identity, "is self-signed: remotes need a pin, or this very certificate")
            ]
        return []
    if any(anchor.subject == last.issuer and chains.issued_by(last, anchor) for anchor in anchors):
        return []
    text = f"the chain ends at an issuer that this host does not trust: {last.issuer.rfc4514_string()}"
    remedy = "if remotes complain of an incomplete chain, import the certificate with its intermediate issuers"
    return [Finding(NOTE if len(chain) > 1 else WARNING, "certificates", identity, text, remedy)]


def disclosures(selectors: Iterable[Object], identities: Iterable[Object]) -> list[Finding]:
    """Check that what is disclosed exists."""
    known = {str(entry.get("id")) for entry in identities if objects(entry.get("records"))}
    found = []
    listed = list(selectors)
    for entry in listed:
        selector = str(entry.get("selector"))
        found += [
            Finding(ERROR, "disclosures", selector, text, f"tlspool disclose set {selector} ...")
            for text in texts(entry.get("malformed"))
        ]
        ids = texts(entry.get("ids"))
        for identity in ids:
            if identity not in known:
                remedy = f"tlspool localid import, or tlspool disclose set {selector} without it"
                found.append(Finding(WARNING, "disclosures", selector, f"discloses {identity}, which has gone", remedy))
    if not listed:
        found.append(Finding(NOTE, "disclosures", "", "none: no client shows who it is unless the application says so"))
    return found or [Finding(OK, "disclosures", "", f"{len(listed)} selectors, all of them to identities that exist")]


def trust(entries: Iterable[Object], now: datetime) -> list[Finding]:
    """Check the anchors; entries have their records with ``data``."""
    found = []
    good = {"client": 0, "server": 0}
    for entry in entries:
        key = str(entry.get("key"))
        found += [
            Finding(ERROR, "trust", key, text, f"tlspool trust del {key}, and set it anew")
            for text in texts(entry.get("malformed"))
        ]
        for record in objects(entry.get("records")):
            certificate = anchor_of(record)
            if certificate is None:
                continue
            if chains.expired(certificate, now):
                text = f"{chains.subject(certificate)} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
                found.append(Finding(WARNING, "trust", key, text, f"tlspool trust del {key}"))
                continue
            for role in texts(record.get("flags")):
                if role in good and record.get("valexp") != "0":
                    good[role] += 1
    for role, number in good.items():
        if not number:
            text = f"no anchor for the role {role}: local {role}s can verify no remote"
            remedy = (
                "tlspool trust import /etc/ssl/certs/ca-certificates.crt" if role == "client" else "tlspool trust set"
            )
            found.append(Finding(ERROR if role == "client" else NOTE, "trust", "", text, remedy))
    return found or [Finding(OK, "trust", "", f"{good['client']} anchors for clients, {good['server']} for servers")]


def anchor_of(record: Object) -> x509.Certificate | None:
    """Return the certificate of a trust record, if it is an anchor that can be read."""
    return _certificate(record.get("data")) if is_anchor(record) else None


def is_anchor(record: Object) -> bool:
    """Whether a trust record is an anchor, and neither a pin nor a revocation."""
    flags = texts(record.get("flags"))
    return "x509" in flags and "revoke" not in flags and "pinned" not in flags


def _x509(entry: Object) -> list[Object]:
    return [record for record in objects(entry.get("records")) if "x509" in texts(record.get("flags"))]


def _chain(record: Object) -> list[x509.Certificate]:
    found = [_certificate(one.get("der")) for one in objects(record.get("chain"))]
    return [one for one in found if one is not None]


def _certificate(data: object) -> x509.Certificate | None:
    if not isinstance(data, str):
        return None
    try:
        return chains.load_untrusted(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError, PoolError):
        return None
