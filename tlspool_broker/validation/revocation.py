"""Revocation: what lists and responders say of a chain.

* Revoked beats everything: whoever says so, and however old the list is.
* A stored list vouches for what is not on it while it is in date, and it has to be there for each certificate.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import lru_cache

from tlspool_broker.trustdata import serial_of
from tlspool_broker.validation.facts import Answer, Context, Facts, Online, is_longer
from tlspool_common.errors import Code
from tlspool_common.messages_judging import Finding, RemoteShown


def revoked(facts: Facts) -> str:
    """Return what says that something in the chain is revoked; '' when nothing does.

    Raises:
        PoolError: what the databases raise.
    """
    if facts.revoked is not None:
        return facts.revoked
    return "" if facts.shown is None else _revoked(facts, facts.shown)


def lists(facts: Facts, shown: RemoteShown, wants_proof: bool) -> Answer:
    """Answer ``R``, or without proof ``r``.

    Raises:
        PoolError: what the databases raise.
    """
    if why := revoked(facts):
        return Answer(False, why, Code.REVOKED)
    stored = _vouched_for(facts, shown)
    if stored:
        return Answer(True, stored)
    return _asked(facts.context, lambda online: online.crl, "revocation list", wants_proof)


def responder(facts: Facts, shown: RemoteShown, wants_proof: bool) -> Answer:
    """Answer ``O``, or without proof ``o``.

    Raises:
        PoolError: what the databases raise.
    """
    if why := revoked(facts):
        return Answer(False, why, Code.REVOKED)
    if shown.stapled is Finding.GOOD:
        return Answer(True, shown.stapled_detail or "the stapled OCSP response says good")
    # RFC 7633 section 4.2.3.1: who promises a staple and brings none is not simply one without a responder.
    broken = shown.must_staple and facts.context.staple_wanted and shown.stapled is Finding.NONE
    online = _asked(facts.context, lambda found: found.ocsp, "OCSP responder", wants_proof or broken)
    if online.value is not True or facts.context.online is None or facts.context.online.ocsp is Finding.GOOD:
        if broken and online.value is False:
            return Answer(False, "the certificate promises a stapled OCSP response, and there is none", online.code)
        return online
    if shown.stapled is Finding.BAD:
        return Answer(False, shown.stapled_detail or "the stapled OCSP response is bad", Code.REVOCATION_UNKNOWN)
    return online


def _revoked(facts: Facts, shown: RemoteShown) -> str:
    for place, line in enumerate(shown.links):
        issuer, serial = _link_untrusted(line)
        stored = facts.context.stored.revocations(issuer) if issuer else None
        if stored is not None and serial and serial_of(int(serial, 16)) in stored.serials:
            whose = "" if place == 0 else f" (certificate {place + 1} of the chain)"
            return f"serial {serial}{whose} is on the list of {day(stored.this_update_s)}"
    if shown.stapled is Finding.REVOKED:
        return shown.stapled_detail or "the stapled OCSP response says revoked"
    online = facts.context.online
    if online is not None and Finding.REVOKED in (online.crl, online.ocsp):
        return online.detail or f"the {'list' if online.crl is Finding.REVOKED else 'OCSP responder'} says revoked"
    return ""


def _vouched_for(facts: Facts, shown: RemoteShown) -> str:
    """Return which stored list speaks for each certificate of the chain, in date; '' when one is without."""
    if is_longer(shown):
        return ""
    dates = []
    for line in shown.links:
        issuer, serial = _link_untrusted(line)
        stored = facts.context.stored.revocations(issuer) if issuer and serial else None
        if stored is None or not stored.this_update_s <= facts.context.now_s <= stored.next_update_s:
            return ""
        dates.append(stored.this_update_s)
    return f"the list of {day(min(dates))} does not have it" if dates else ""


def _asked(context: Context, what: Callable[[Online], Finding], name: str, wants_proof: bool) -> Answer:
    online = context.online
    if online is None:
        return Answer(None, f"no {name} has been asked yet", Code.REVOCATION_UNKNOWN)
    finding = what(online)
    why = online.detail or f"{name}: {finding.name.lower()}"
    if finding is Finding.GOOD:
        return Answer(True, why)
    passes = not wants_proof and finding is not Finding.BAD
    return Answer(passes, why, Code.REVOCATION_UNKNOWN)


@lru_cache(maxsize=1024)  # issuers and remotes come again; a line is short
def _link_untrusted(line: str) -> tuple[bytes, str]:
    """Return the issuer's key identifier, and the serial in hexadecimal; b'' and '' for what is not there."""
    issuer, _, serial = line.partition(" ")
    try:
        key = b"" if issuer == "-" else bytes.fromhex(issuer)
        int(serial or "0", 16)
    except ValueError:
        return b"", ""
    return key, serial


@lru_cache(maxsize=64)  # of the same few lists
def day(seconds: int) -> str:
    """Return a date for people."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return "a day that no calendar has"
