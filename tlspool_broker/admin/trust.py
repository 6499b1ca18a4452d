"""``trust.set|get|list|del``: whom we believe."""

from __future__ import annotations

from tlspool_broker import certificates, credentials, records
from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import Answer, Request, Work, bad, binary, boolean, hexadecimal, text, warned, words
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit, issuer_key


def set_records(request: Request) -> Work:
    """Trust anchors; or write a pin or a revocation as it is stored."""
    flags = records.trust_flags(words(request, "flags"))
    valexp = text(request, "valexp")
    like_upstream = boolean(request, "like_upstream")
    key = hexadecimal(text(request, "key")) if "key" in request else None
    data = request.get("data")
    if flags & (records.TRUST_REVOKED | records.TRUST_PINNED):
        return _set_data(flags, valexp, key, data)
    items = data if isinstance(data, list) else [data]
    ders = [certificate for item in items for certificate in records.split_der_untrusted(binary(item))]
    if not ders:
        raise bad("data is empty; trust.del deletes")
    new = credentials.trust_values(flags, valexp, ders, key)
    warnings = [
        f"{certificate.subject.rfc4514_string()}: {doubt}"
        for certificate in map(certificates.load, ders)
        for doubt in certificates.doubts(certificate, None)
    ]

    def work(edit: Edit) -> Answer:
        edit.trust_file(new, 0 if like_upstream else flags & records.ROLE_MASK)
        return warned({"keys": [one.hex() for one in new]}, warnings)

    return work


def _set_data(flags: int, valexp: str, key: bytes | None, data: object) -> Work:
    if key is None:
        raise bad("key is needed: the SHA-256 of the pinned certificate, or the key identifier of the issuer")
    stored = binary(data if data is not None else "", "data")

    def work(edit: Edit) -> Answer:
        edit.trust_put(flags, valexp, key, stored)
        return {"keys": [key.hex()]}

    return work


def get(databases: Databases, request: Request) -> Answer:
    """Show the records of a key."""
    entry = databases.trust_entry(key_of(request))
    return {
        "key": entry.key.hex(),
        "records": [shown.trusted(one, entry.key, True) for one in entry.good],
        "malformed": shown.details(entry),
    }


def list_all(databases: Databases, _request: Request) -> Answer:
    """Show all records."""
    return {
        "keys": [
            {
                "key": entry.key.hex(),
                "records": [shown.trusted(record, entry.key, False) for record in entry.good],
                "malformed": shown.details(entry),
            }
            for entry in databases.trust_list()
        ]
    }


def delete(request: Request) -> Work:
    """Remove the records of a key, or those of a kind and for roles."""
    key = key_of(request)
    given = words(request, "flags", 1, ())
    flags = records.trust_flags(given) if given else None

    def work(edit: Edit) -> Answer:
        removed = edit.trust_del(key, flags)
        return warned({"key": key.hex(), "removed": removed}, [] if removed else ["nothing was there to be removed"])

    return work


def key_of(request: Request) -> bytes:
    """Return the key of a request: written, or that of a certificate."""
    if "data" in request:
        return issuer_key(binary(request["data"]))
    return hexadecimal(text(request, "key", 0))
