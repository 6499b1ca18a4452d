"""Whether the private keys exist that an operator names, and belong to the certificates: as the key daemon has it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from tlspool_broker import certificates, records
from tlspool_broker.admin import localid
from tlspool_broker.admin.fields import Request, boolean, listed, words
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.messages import KeyAnswer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that a request names; ``strict``: it must be there."""

    identity: str
    uri: str
    spki_sha256: bytes
    strict: bool


def wanted(request: Request) -> list[Wanted]:
    """Return the keys that a request to change something names, which was found in order."""
    if request.get("cmd") == "batch":
        strict = boolean(request, "strict")
        found = [one for item in listed(request, "operations") if isinstance(item, dict) for one in wanted(item)]
        return [Wanted(one.identity, one.uri, one.spki_sha256, True) for one in found] if strict else found
    if request.get("cmd") != "localid.set":
        return []
    if records.local_flags(words(request, "flags")) & records.TYPE_MASK != records.X509:
        return []
    strict = boolean(request, "strict")
    keys = []
    for uri, chain in localid.pairs_of(request):
        if chain:
            _, spki_sha256 = certificates.key_of(certificates.load(chain[0]))
            keys.append(Wanted(str(request.get("id")), uri, spki_sha256, strict))
    return keys


def judge(keys: list[Wanted], answers: Mapping[str, KeyAnswer | None]) -> list[str]:
    """Judge what the key daemon has said about URIs (None, or nothing: it did not answer); return warnings.

    Raises:
        PoolError: KEY_UNFIT, the key is another one's; where the key must be there KEY_UNCHECKED or the reason why
            it cannot be used.
    """
    warnings = []
    for one in keys:
        answer = answers.get(one.uri)
        code = Code.KEY_UNCHECKED if answer is None else code_of(answer.code)
        detail = "" if answer is None else answer.detail
        if code is Code.OK and answer is not None:
            if answer.spki and hashlib.sha256(answer.spki).digest() != one.spki_sha256:
                raise PoolError(Code.KEY_UNFIT, f"{one.identity}: {one.uri}")
            if answer.spki:
                continue
            code, detail = Code.KEY_UNCHECKED, "the token does not tell the public key"
        where = f"{one.identity}: {one.uri}" + (f": {detail}" if detail else "")
        if one.strict:
            raise PoolError(code, where)
        if answers:
            warnings.append(str(PoolError(code, where)))
    return warnings
