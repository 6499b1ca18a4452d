"""Several findings made one: of one certificate from several places, and of several certificates of a chain."""

from __future__ import annotations

from collections.abc import Sequence

from tlspool_common.messages import Finding
from tlspool_online.lists import Told

_WORST_FIRST = (Finding.REVOKED, Finding.BAD, Finding.UNKNOWN, Finding.NONE)


def one_of(told: Sequence[Told]) -> Told:
    """Choose among what several places say of one certificate, of which none says good or revoked: what tells most."""
    for finding in _WORST_FIRST:
        found = [one for one in told if one[0] is finding]
        if found:
            return finding, "; ".join(one[1] for one in found), max(one[2] for one in found)
    return Finding.ABSENT, "", 0


def together(told: Sequence[Told], *, each: bool) -> tuple[Finding, str]:
    """Say what holds of a chain, leaf first.

    Revoked is the chain when one of its certificates is; good when the leaf is, and its issuers.  ``each``: issuers
    about which nobody offers to say anything (ABSENT) count, too.  They do for lists, and not for OCSP, as public
    authorities run no responder for their intermediates.
    """
    if not told:
        return Finding.NONE, "a chain of one certificate: there is nobody to ask"
    absent = Finding.ABSENT
    counted = [(n, one) for n, one in enumerate(told) if n == 0 or each or one[0] is not absent]
    for finding in (*_WORST_FIRST, absent):
        culprits = [(n, one) for n, one in counted if one[0] is finding]
        if culprits:
            counted = culprits
            break
    return counted[0][1][0], "; ".join(f"certificate {n}: {one[1]}" for n, one in counted)
