"""``localid.*``: who we are."""

from __future__ import annotations

import base64
from collections.abc import Callable

from tlspool_broker import certificates, credentials, records
from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import Answer, Request, Work, bad, binary, boolean, listed, raw, text, warned, words
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit
from tlspool_broker.entries import Entry, Name, shown_key
from tlspool_broker.records import LocalRecord
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, parse_untrusted


def pairs_of(request: Request) -> list[tuple[str, list[bytes]]]:
    """Return URIs and chains of a localid.set."""
    pairs: list[tuple[str, list[bytes]]] = []
    for number, item in enumerate(listed(request, "records"), 1):
        if not isinstance(item, dict):
            raise bad(f"records[{number}] is no object")
        chain = [der for data in listed(item, "chain", ()) for der in records.split_der_untrusted(binary(data))]
        pairs.append((text(item, "uri"), chain))
    return pairs


def set_records(request: Request) -> Work:
    """Give an identity credentials."""
    donai = parse_untrusted(text(request, "id"))
    flags = records.local_flags(words(request, "flags"))
    like_upstream = boolean(request, "like_upstream")
    pairs = pairs_of(request)
    if not pairs:
        raise bad("records is empty; localid.del deletes")
    new = credentials.local_values(flags, pairs)
    warnings = [
        f"{uri}: {doubt}"
        for uri, chain in pairs
        if chain
        for doubt in certificates.doubts(certificates.load(chain[0]), donai)
    ]

    def work(edit: Edit) -> Answer:
        edit.localid_file(donai, new, flags & records.TYPE_MASK, 0 if like_upstream else flags & records.ROLE_MASK)
        return warned({"id": str(donai), "records": len(pairs)}, warnings)

    return work


def get(databases: Databases, request: Request) -> Answer:
    """Show an identity."""
    entry = _find(databases.localid_entry, text(request, "id", 0))
    items = [shown.local(record) for record in entry.good]
    for item, record in zip(items, entry.good, strict=True):
        if record.type == records.X509:
            try:
                item["chain"] = _certificates(record.chain())
            except PoolError as error:
                item["malformed"] = error.detail
    return {"id": shown_key(Name.LOCALID, entry.key), "records": items, "malformed": shown.details(entry)}


def list_all(databases: Databases, _request: Request) -> Answer:
    """Show all identities."""
    return {
        "identities": [
            {
                "id": shown_key(Name.LOCALID, entry.key),
                "records": [shown.local(record) for record in entry.good],
                "malformed": shown.details(entry),
            }
            for entry in databases.localid_list()
        ]
    }


def delete(request: Request) -> Work:
    """Remove an identity, or what it has of a type and for roles."""
    wanted = text(request, "id", 0)
    given = words(request, "flags", 1, ())
    flags = records.local_flags(given) if given else None

    def work(edit: Edit) -> Answer:
        entry = _find(edit.localid_entry, wanted)
        donai = raw(entry.key.decode())
        removed = edit.localid_del(donai, flags)
        warnings = []
        if removed and not edit.localid_entry(donai).good:
            selectors = [shown_key(Name.DISCLOSE, key) for key in edit.disclosing(str(donai))]
            warnings = [f"selector {selector} still discloses {donai}, to no effect" for selector in selectors]
            if edit.policy_get(f"localid:{donai}"):
                warnings.append(f"a crypto policy is still assigned to localid:{donai}")
        return warned({"id": shown_key(Name.LOCALID, entry.key), "removed": removed}, warnings)

    return work


def _find(entry_of: Callable[[Donai], Entry[LocalRecord]], wanted: str) -> Entry[LocalRecord]:
    """Find an identity in normal form, else as it is written."""
    try:
        entry = entry_of(parse_untrusted(wanted))
        if entry.good or entry.bad:
            return entry
    except PoolError as error:
        wrong = error
    else:
        wrong = PoolError(Code.LOCALID_UNKNOWN, wanted)
    entry = entry_of(raw(wanted))
    if not entry.good and not entry.bad:
        raise wrong
    return entry


def _certificates(chain: tuple[bytes, ...]) -> list[dict[str, object]]:
    return [{**certificates.summary(certificates.load(der)), "der": base64.b64encode(der).decode()} for der in chain]
