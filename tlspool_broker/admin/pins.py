"""``trust.pin|unpin|pins``: certificates that are pinned for a remote."""

from __future__ import annotations

import hashlib

from tlspool_broker import certificates, records, trustdata
from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import (
    Answer,
    Request,
    Work,
    bad,
    binary,
    boolean,
    hexadecimal,
    text,
    time_s,
    warned,
    words,
)
from tlspool_broker.databases import Databases, now_s
from tlspool_broker.edit import Edit
from tlspool_broker.trustdata import Pin
from tlspool_common.identity import parse_untrusted


def pin(request: Request) -> Work:
    """Pin a certificate."""
    remote = parse_untrusted(text(request, "remote", 0))
    until_s, before_s = time_s(request, "until_s"), time_s(request, "before_s")
    if before_s and not until_s:
        raise bad("before_s counts back from until_s, which is not there")
    roles = records.trust_flags(["x509", *words(request, "flags", None, ())]) & records.ROLE_MASK
    sides = (roles or records.ROLE_MASK) >> 8
    sha256, warnings = _certificate_of(request)
    new = Pin(sha256, until_s, before_s, str(remote), sides)
    alone = boolean(request, "alone")
    if new.is_over(now_s()):
        warnings.append(f"the pin has expired: until_s is {shown.when(until_s)}")

    def work(edit: Edit) -> Answer:
        edit.pin(new, alone=alone)
        return warned(shown.pin(new), warnings)

    return work


def unpin(request: Request) -> Work:
    """Remove the pins of a remote, or one of them."""
    remote = str(parse_untrusted(text(request, "remote", 0)))
    args = request.get("args")
    named = "sha256" in request or "data" in request or (isinstance(args, list) and len(args) > 1)
    sha256 = _certificate_of(request)[0] if named else None

    def work(edit: Edit) -> Answer:
        removed = edit.unpin(remote, sha256)
        return warned({"remote": remote, "removed": removed}, [] if removed else ["nothing was there to be removed"])

    return work


def list_all(databases: Databases, request: Request) -> Answer:
    """Show the pins of a remote, or all."""
    wanted = text(request, "remote", 0, "")
    remote = str(parse_untrusted(wanted)) if wanted else ""
    at_s = now_s()
    found = []
    for entry in databases.trust_list():
        for record in entry.good:
            row = shown.trusted(record, entry.key, False) if record.is_pin else {}
            if "sha256" in row and remote in ("", row["remote"]):
                one = trustdata.pin_of(entry.key, record)
                state = "expired" if one.is_over(at_s) else "replaceable" if one.is_replaceable(at_s) else "in force"
                found.append({**shown.pin(one), "flags": row["flags"], "state": state})
    return {"pins": sorted(found, key=lambda row: (str(row["remote"]), str(row["sha256"])))}


def _certificate_of(request: Request) -> tuple[bytes, list[str]]:
    """Return the SHA-256 of a certificate, and what is to be said about it."""
    if "data" in request:
        der = records.split_der_untrusted(binary(request["data"]))[0]
        return hashlib.sha256(der).digest(), certificates.doubts(certificates.load(der), None)
    sha256 = hexadecimal(text(request, "sha256", 1), "sha256")
    if len(sha256) != trustdata.SHA256_B:
        raise bad("sha256 must be 64 hexadecimal digits")
    return sha256, []
