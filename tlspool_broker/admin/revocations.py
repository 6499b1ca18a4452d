"""``trust.revoke|unrevoke``: certificates that their issuer has taken back."""

from __future__ import annotations

from tlspool_broker import crls
from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import Answer, Request, Work, bad, binary, hexadecimal, text, texts, time_s, warned
from tlspool_broker.admin.trust import key_of
from tlspool_broker.crls import RevocationList
from tlspool_broker.databases import now_s
from tlspool_broker.edit import Edit, issuer_key
from tlspool_broker.trustdata import Revocations, serial_of

_SERIAL_DIGITS = 128
"""Digits of a serial number: RFC 5280 allows 40."""


def revoke(request: Request) -> Work:
    """Add serials to what an issuer has revoked, or take over its list."""
    if "crl" in request:
        return _take_over(request)
    key = key_of(request)
    serials = frozenset(_serials(request))
    if not serials:
        raise bad("serials is empty")
    today_s = now_s()
    next_s = time_s(request, "next_update_s")

    def work(edit: Edit) -> Answer:
        old = edit.revocations(key) or Revocations(today_s, 0, frozenset())
        new = Revocations(old.this_update_s, next_s or old.next_update_s, old.serials | serials)
        edit.revoke(key, new)
        warnings = [] if edit.issuers(key) else [f"no anchor is filed under {key.hex()}"]
        return warned({"key": key.hex(), **shown.revocations(new)}, warnings)

    return work


def unrevoke(request: Request) -> Work:
    """Take serials off, or forget what an issuer has revoked."""
    key = key_of(request)
    serials = frozenset(_serials(request))

    def work(edit: Edit) -> Answer:
        old = edit.revocations(key)
        gone = old.serials & serials if serials and old is not None else old.serials if old is not None else frozenset()
        new = Revocations(old.this_update_s, old.next_update_s, old.serials - gone) if serials and old else None
        edit.revoke(key, new)
        nothing = ["nothing was there to be removed"] if old is None or (serials and not gone) else []
        return warned({"key": key.hex(), "removed": len(gone)}, nothing)

    return work


def _take_over(request: Request) -> Work:
    found = crls.load(binary(request["crl"], "crl"))
    given = binary(request["data"]) if "data" in request else None
    if given is not None:
        key = issuer_key(given)
    elif request.get("key") is not None:
        key = hexadecimal(text(request, "key"))
    elif found.issuer_key:
        key = found.issuer_key
    else:
        raise bad("key or data is needed: the list does not name the key of its issuer")
    warnings = []
    if 0 < found.revocations.next_update_s < now_s():
        warnings.append(f"the list is out of date since {shown.when(found.revocations.next_update_s)}")

    def work(edit: Edit) -> Answer:
        found.check_signed([given] if given is not None else edit.issuers(key), key)
        _check_newer(edit, key, found)
        edit.revoke(key, found.revocations)
        return warned({"key": key.hex(), "issuer": found.issuer, **shown.revocations(found.revocations)}, warnings)

    return work


def _check_newer(edit: Edit, key: bytes, found: RevocationList) -> None:
    old = edit.revocations(key)
    if old is not None and old.this_update_s > found.revocations.this_update_s:
        there, here = shown.when(old.this_update_s), shown.when(found.revocations.this_update_s)
        raise bad(f"crl is of {here}, what is known of that issuer is of {there}; trust.unrevoke forgets it")


def _serials(request: Request) -> list[bytes]:
    given = request.get("serials")
    args = request.get("args")
    if given is None:
        given = args[1:] if isinstance(args, list) else []
    if not isinstance(given, list):
        raise bad("serials must be a list of hexadecimal texts")
    found = []
    for one in texts(given, "serials"):
        digits = one.replace(":", "")
        if not digits or len(digits) > _SERIAL_DIGITS or digits.strip("0123456789abcdefABCDEF"):
            raise bad(f"serials: {one[:80]!r} is no hexadecimal number")
        found.append(serial_of(int(digits, 16)))
    return found
