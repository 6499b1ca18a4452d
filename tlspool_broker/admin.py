"""Operations on the databases, as the broker's control socket offers them: dict in, dict out.

Requests have ``cmd`` and these fields; where a request is bare words, the words behind the command stand for
the fields that are marked with their place.

    localid.set    id, flags, records: [{"uri", "chain": [base64 DER, ...]}]     leaf first
                   (type valexp: [{"uri": EXPRESSION}])
    localid.get    id (1)                    records with certificates, and what is malformed
    localid.list                             identities, their records without certificates
    localid.del    id (1), flags (2)         without flags: everything of that identity
    disclose.set   selector, ids: [...]      the whole list, most preferred first
    disclose.get   selector (1)              an identity or a selector: the walk, and what is disclosed
    disclose.list
    disclose.del   selector (1)
    trust.set      flags, valexp, data: base64 DER or a list of them; key: hexadecimal (default: each
                   certificate's own key identifier)
    trust.get      key (1): hexadecimal, or data: base64 DER
    trust.list
    trust.del      key (1) or data, flags (2)

``flags`` is a list of words or one text with commas, such as ``x509,client,server``.  In ``chain`` and
``data`` one base64 text may hold several certificates behind each other.  Every answer has ``generation``,
the number of the state of the databases after the operation; ``warnings``, if there, is for the operator.
``author``, in any request, is for the log of the caller of this module.

Identities are brought in normal form.  get and del also find a key exactly as it was written by other tools.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from tlspool_broker import certificates, records
from tlspool_broker.databases import Databases, Entry
from tlspool_broker.entries import Name, shown_key
from tlspool_broker.records import LocalRecord, TrustRecord
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, generalise, parse_selector_untrusted, parse_untrusted

Request = Mapping[str, object]
Answer = dict[str, object]


def handle(databases: Databases, request: Request) -> Answer:
    """Carry out a request.

    Raises:
        PoolError: COMMAND_UNKNOWN, FIELD_MALFORMED, IDENTITY_MALFORMED, RECORD_MALFORMED, LOCALID_UNKNOWN,
            NOT_SUPPORTED_YET, DATABASE.
    """
    operation = COMMANDS.get(str(request.get("cmd")))
    if operation is None:
        raise PoolError(Code.COMMAND_UNKNOWN, f"{request.get('cmd')!r}; known: {', '.join(COMMANDS)}")
    answer = operation(databases, request)
    return {"generation": databases.generation, **answer}


# --- localid ------------------------------------------------------------------------------------------


def _localid_set(databases: Databases, request: Request) -> Answer:
    donai = parse_untrusted(_text(request, "id"))
    flags = records.local_flags(_words(request, "flags"))
    pairs: list[tuple[str, list[bytes]]] = []
    for number, item in enumerate(_list(request, "records"), 1):
        if not isinstance(item, dict):
            raise _bad(f"records[{number}] is no object")
        chain = [der for data in _list(item, "chain", ()) for der in records.split_der_untrusted(_binary(data))]
        pairs.append((_text(item, "uri"), chain))
    if not pairs:
        raise _bad("records is empty; localid.del deletes")
    databases.localid_set(donai, flags, pairs)
    warnings = [
        f"{uri}: {doubt}"
        for uri, chain in pairs
        if chain
        for doubt in certificates.doubts(certificates.load(chain[0]), donai)
    ]
    return _warned({"id": str(donai), "records": len(pairs)}, warnings)


def _localid_get(databases: Databases, request: Request) -> Answer:
    entry = _localid_entry(databases, _text(request, "id", 0))
    shown = [_local(record) for record in entry.good]
    for item, record in zip(shown, entry.good, strict=True):
        if record.type == records.X509:
            try:
                item["chain"] = _certificates(record.chain())
            except PoolError as error:
                item["malformed"] = error.detail
    return {"id": shown_key(Name.LOCALID, entry.key), "records": shown, "malformed": _details(entry)}


def _localid_list(databases: Databases, _request: Request) -> Answer:
    return {
        "identities": [
            {
                "id": shown_key(Name.LOCALID, entry.key),
                "records": [_local(record) for record in entry.good],
                "malformed": _details(entry),
            }
            for entry in databases.localid_list()
        ]
    }


def _localid_del(databases: Databases, request: Request) -> Answer:
    entry = _localid_entry(databases, _text(request, "id", 0))
    words = _words(request, "flags", 1, ())
    donai = _raw(entry.key.decode())
    removed = databases.localid_del(donai, records.local_flags(words) if words else None)
    warnings = []
    if removed and not databases.localid_entry(donai).good:
        shown = str(donai)
        selectors = [shown_key(Name.DISCLOSE, one.key) for one in databases.disclose_list() if shown in one.good]
        warnings = [f"selector {selector} still discloses {shown}, to no effect" for selector in selectors]
    return _warned({"id": shown_key(Name.LOCALID, entry.key), "removed": removed}, warnings)


def _localid_entry(databases: Databases, text: str) -> Entry[LocalRecord]:
    """Find an identity in normal form, else as it is written."""
    try:
        entry = databases.localid_entry(parse_untrusted(text))
        if entry.good or entry.bad:
            return entry
    except PoolError as error:
        wrong = error
    else:
        wrong = PoolError(Code.LOCALID_UNKNOWN, text)
    entry = databases.localid_entry(_raw(text))
    if not entry.good and not entry.bad:
        raise wrong
    return entry


def _local(record: LocalRecord) -> dict[str, object]:
    kind = "expression" if record.type == records.VALEXP else "uri"
    return {
        "flags": records.local_words(record.flags),
        kind: record.shown_uri,
        "credential_b": len(record.credential),
    }


# --- disclose -----------------------------------------------------------------------------------------


def _disclose_set(databases: Databases, request: Request) -> Answer:
    selector = parse_selector_untrusted(_text(request, "selector"))
    donais = [parse_untrusted(text) for text in _texts(_list(request, "ids"), "ids")]
    if not donais:
        raise _bad("ids is empty; disclose.del deletes")
    databases.disclose_set(selector, donais)
    return {"selector": str(selector), "ids": databases.disclose_get(selector)}


def _disclose_get(databases: Databases, request: Request) -> Answer:
    asked = parse_selector_untrusted(_text(request, "selector", 0))
    walk = []
    hit = ""
    malformed: list[str] = []
    for selector in generalise(asked):
        entry = databases.disclose_entry(_raw(selector))
        present = bool(entry.good or entry.bad)
        walk.append({"selector": selector, "present": present})
        if present:
            hit, malformed = selector, _details(entry)
            break
    return {
        "asked": str(asked),
        "walk": walk,
        "selector": hit,
        "ids": databases.disclosed(asked),
        "malformed": malformed,
    }


def _disclose_list(databases: Databases, _request: Request) -> Answer:
    return {
        "selectors": [
            {"selector": shown_key(Name.DISCLOSE, entry.key), "ids": list(entry.good), "malformed": _details(entry)}
            for entry in databases.disclose_list()
        ]
    }


def _disclose_del(databases: Databases, request: Request) -> Answer:
    text = _text(request, "selector", 0)
    try:
        removed = databases.disclose_del(parse_selector_untrusted(text))
    except PoolError as error:
        if error.code is not Code.IDENTITY_MALFORMED:
            raise
        removed = 0
    removed = removed or databases.disclose_del(_raw(text))
    return _warned({"selector": text, "removed": removed}, [] if removed else [f"there is no selector {text}"])


# --- trust --------------------------------------------------------------------------------------------


def _trust_set(databases: Databases, request: Request) -> Answer:
    data = request.get("data")
    items = data if isinstance(data, list) else [data]
    ders = [certificate for item in items for certificate in records.split_der_untrusted(_binary(item))]
    if not ders:
        raise _bad("data is empty; trust.del deletes")
    flags = records.trust_flags(_words(request, "flags"))
    key = _hexadecimal(_text(request, "key")) if "key" in request else None
    keys = databases.trust_set(flags, _text(request, "valexp"), ders, key)
    warnings = [
        f"{certificate.subject.rfc4514_string()}: {doubt}"
        for certificate in map(certificates.load, ders)
        for doubt in certificates.doubts(certificate, None)
    ]
    return _warned({"keys": [one.hex() for one in keys]}, warnings)


def _trust_get(databases: Databases, request: Request) -> Answer:
    entry = databases.trust_entry(_trust_key(request))
    return {
        "key": entry.key.hex(),
        "records": [_trusted(one, True) for one in entry.good],
        "malformed": _details(entry),
    }


def _trust_list(databases: Databases, _request: Request) -> Answer:
    return {
        "keys": [
            {
                "key": entry.key.hex(),
                "records": [_trusted(record, False) for record in entry.good],
                "malformed": _details(entry),
            }
            for entry in databases.trust_list()
        ]
    }


def _trust_del(databases: Databases, request: Request) -> Answer:
    key = _trust_key(request)
    words = _words(request, "flags", 1, ())
    removed = databases.trust_del(key, records.trust_flags(words) if words else None)
    return _warned({"key": key.hex(), "removed": removed}, [] if removed else ["nothing was there to be removed"])


def _trust_key(request: Request) -> bytes:
    if "data" in request:
        return certificates.key_identifier(certificates.load(_binary(request["data"])))
    return _hexadecimal(_text(request, "key", 0))


def _trusted(record: TrustRecord, with_data: bool) -> dict[str, object]:
    shown: dict[str, object] = {"flags": records.trust_words(record.flags), "valexp": record.valexp}
    if record.is_anchor:
        try:
            certificate = certificates.load(record.data)
        except PoolError as error:
            return {**shown, "malformed": error.detail}
        shown["subject"] = certificate.subject.rfc4514_string()
        if with_data:
            shown.update(certificates.summary(certificate))
    if with_data:
        shown["data"] = base64.b64encode(record.data).decode()
    else:
        shown["data_b"] = len(record.data)
    return shown


COMMANDS: dict[str, Callable[[Databases, Request], Answer]] = {
    "localid.set": _localid_set,
    "localid.get": _localid_get,
    "localid.list": _localid_list,
    "localid.del": _localid_del,
    "disclose.set": _disclose_set,
    "disclose.get": _disclose_get,
    "disclose.list": _disclose_list,
    "disclose.del": _disclose_del,
    "trust.set": _trust_set,
    "trust.get": _trust_get,
    "trust.list": _trust_list,
    "trust.del": _trust_del,
}
"""Every operation of this module; the control handler passes on what is in here."""


# --- fields -------------------------------------------------------------------------------------------


def _bad(what: str) -> PoolError:
    return PoolError(Code.FIELD_MALFORMED, what)


def _text(request: Request, name: str, place: int | None = None) -> str:
    value = request.get(name)
    if value is None and place is not None:
        args = request.get("args")
        if isinstance(args, list) and len(args) > place:
            value = args[place]
    if not isinstance(value, str) or not value:
        raise _bad(f"{name} must be text")
    return value


def _list(request: Request, name: str, default: object = None) -> list[object]:
    value = request.get(name, default)
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, list):
        raise _bad(f"{name} must be a list")
    return value


def _texts(items: list[object], name: str) -> list[str]:
    found = [item for item in items if isinstance(item, str)]
    if len(found) != len(items):
        raise _bad(f"{name} must be a list of texts")
    return found


def _words(request: Request, name: str, place: int | None = None, default: object = None) -> list[str]:
    value = request.get(name)
    if isinstance(value, list):
        return _texts(value, name)
    args = request.get("args")
    if value is None and default is not None and not (place and isinstance(args, list) and len(args) > place):
        return []
    return [word for word in _text(request, name, place).split(",") if word]


def _binary(value: object) -> bytes:
    if not isinstance(value, str):
        raise _bad("certificates must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("certificates must be base64 text") from None


def _hexadecimal(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if not key:
        raise _bad("the key must be an even number of hexadecimal digits")
    return key


def _raw(text: str) -> Donai:
    """Return an identity or selector whose key is exactly this text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad("text must be Unicode") from None
    return Donai(None, text)


def _details(entry: Entry[LocalRecord] | Entry[TrustRecord] | Entry[str]) -> list[str]:
    return [error.detail for error in entry.bad]


def _certificates(chain: tuple[bytes, ...]) -> list[dict[str, object]]:
    return [{**certificates.summary(certificates.load(der)), "der": base64.b64encode(der).decode()} for der in chain]


def _warned(answer: Answer, warnings: list[str]) -> Answer:
    return {**answer, "warnings": warnings} if warnings else answer
