"""PKCS #11 URIs (RFC 7512): parse, print, and match against tokens and objects.

    pkcs11:token=pool;serial=0123;object=web;id=%01%02;type=private
           \\____________________________ path: attribute=value, separated by ";"

Of the query component only vendor attributes pass: ``pin-value`` and ``pin-source`` are refused, because the
PIN comes from keyd's settings and a URI stands in databases, logs and process lists; ``module-name`` and
``module-path`` likewise, because the settings say which modules are loaded.  ``str`` prints the path only.

Strict where RFC 7512 section 2.3 is: no duplicates, no unknown attributes but vendor ones, no stray
characters, whole percent escapes.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError

TOKEN_ATTRIBUTES = ("token", "manufacturer", "model", "serial")
"""Of CK_TOKEN_INFO."""

LIBRARY_ATTRIBUTES = ("library-manufacturer", "library-description", "library-version")
"""Of CK_INFO."""

SLOT_ATTRIBUTES = ("slot-manufacturer", "slot-description", "slot-id")
"""Of CK_SLOT_INFO, and the slot's number."""

PLACE_ATTRIBUTES = (*TOKEN_ATTRIBUTES, *LIBRARY_ATTRIBUTES, *SLOT_ATTRIBUTES)
"""All that says where an object is."""

OBJECT_ATTRIBUTES = ("object", "id", "type")

_TOKEN_NAME = ("model", "manufacturer", "serial", "token")

TYPES = ("private", "public", "cert", "secret-key", "data")
_TYPES = frozenset(kind.encode() for kind in TYPES)

_SCHEME = "pkcs11:"
_PADDING = b" \0"
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_PATH_TEXT = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})*+")
"""Of pk11-pchar (RFC 7512 section 2.3)."""

_QUERY_TEXT = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})*+")
_VENDOR_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VERSION = re.compile(rb"[0-9]{1,3}(\.[0-9]{1,3})?")
_ESCAPED = tuple(f"%{octet:02x}" for octet in range(256))
_QUOTED = tuple(chr(octet) if chr(octet) in _UNRESERVED else _ESCAPED[octet] for octet in range(256))


def _refuse(why: str) -> NoReturn:
    raise PoolError(Code.KEY_URI_MALFORMED, why)


def _decode(name: str, text: str, allowed: re.Pattern[str]) -> bytes:
    """Undo percent encoding; refuse characters that should have been encoded."""
    if not allowed.fullmatch(text):
        good = allowed.match(text)
        if good and text[good.end()] == "%":
            _refuse(f"{name} has a broken % escape")
        _refuse(f"{name} has a character that must be written as a % escape")
    return unquote_to_bytes(text)


def quote(value: bytes, *, every: bool = False) -> str:
    """Write bytes as an attribute value; ``every`` escapes each of them, as is usual for ``id``."""
    return "".join(map((_ESCAPED if every else _QUOTED).__getitem__, value))


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """The path of a URI: attribute values as octets, in the order they were written."""

    attributes: Mapping[str, bytes]
    vendor: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{name}={quote(value, every=name == 'id')}" for name, value in self.attributes.items()]
        parts += [f"{name}={quote(value)}" for name, value in self.vendor.items()]
        return _SCHEME + ";".join(parts)

    @property
    def place(self) -> dict[str, bytes]:
        """The attributes that say where: token, library and slot, in the form in which they are compared."""
        return {name: _normal(name, value) for name, value in self.attributes.items() if name in PLACE_ATTRIBUTES}

    def matches_place(self, place: Mapping[str, bytes]) -> bool:
        """Whether a token is one of those meant.  ``place`` has all of PLACE_ATTRIBUTES (see ``place_of``)."""
        return all(place.get(name) == value for name, value in self.place.items())

    def may_match(self, other: Pkcs11Uri) -> bool:
        """Whether some token could be meant by both URIs: no attribute they share contradicts."""
        theirs = other.place
        return all(theirs.get(name, value) == value for name, value in self.place.items())

    def wants_private_key(self) -> None:
        """Check that the URI can name a private key.

        Raises:
            PoolError: KEY_URI_MALFORMED, it names another type of object, or no object at all.
        """
        kind = self.attributes.get("type", b"private")
        if kind != b"private":
            _refuse(f"type={kind.decode()} where a private key is wanted")
        if not {"object", "id"} & self.attributes.keys():
            _refuse("neither object= nor id= says which key")


def _normal(name: str, value: bytes) -> bytes:
    if name == "library-version" and b"." not in value:
        return value + b".0"  # RFC 7512 section 2.3: a missing minor number is 0
    return value.rstrip(_PADDING)  # tokens padded with NUL exist, and p11tool prints it


def place_of(
    token: Mapping[str, str], library: Mapping[str, str], slot: Mapping[str, str], slot_id: int
) -> dict[str, bytes]:
    """Make what ``matches_place`` compares with, of texts as PKCS #11 pads them.

    ``token`` has keys token, manufacturer, model, serial; ``library`` manufacturer, description, version;
    ``slot`` manufacturer, description.  Padding at the end is not part of a value.
    """
    place = {name: token[name] for name in TOKEN_ATTRIBUTES}
    place |= {f"library-{name}": library[name] for name in ("manufacturer", "description", "version")}
    place |= {f"slot-{name}": slot[name] for name in ("manufacturer", "description")}
    place["slot-id"] = str(slot_id)
    return {name: value.encode("utf-8", "surrogateescape").rstrip(_PADDING) for name, value in place.items()}


def token_uri(place: Mapping[str, bytes]) -> str:
    """Name a token by what stays the same when it is moved to another slot."""
    return str(Pkcs11Uri({name: place[name] for name in _TOKEN_NAME}))


def key_uri(place: Mapping[str, bytes], key_id: bytes, label: bytes) -> str:
    """Name a private key on a token; without its label where both would be too long."""
    which = {name: value for name, value in (("id", key_id), ("object", label)) if value}
    text = str(Pkcs11Uri({**{name: place[name] for name in _TOKEN_NAME}, **which, "type": b"private"}))
    if len(text) > limits.KEY_URI_B and key_id and label:
        return key_uri(place, key_id, b"")
    return text


@lru_cache(maxsize=256)  # each signature names its key by one; one that is refused, for a PIN in it, is not kept
def parse_untrusted(text: str) -> Pkcs11Uri:
    """Parse a URI.

    Raises:
        PoolError: KEY_URI_MALFORMED; the text says why and shows nothing of a query.
    """
    if len(text.encode("utf-8", "replace")) > limits.KEY_URI_B:
        _refuse(f"more than {limits.KEY_URI_B} bytes")
    if not text.startswith(_SCHEME):
        _refuse(f"does not start with {_SCHEME}")
    path, question, query = text[len(_SCHEME) :].partition("?")
    attributes: dict[str, bytes] = {}
    vendor: dict[str, bytes] = {}
    for part in path.split(";") if path else ():
        name, equals, value = part.partition("=")
        if not equals or not _VENDOR_NAME.fullmatch(name):
            _refuse("a part of the path is no attribute=value")
        if name in attributes or name in vendor:
            _refuse(f"{name} stands there twice")
        known = name in PLACE_ATTRIBUTES or name in OBJECT_ATTRIBUTES
        (attributes if known else vendor)[name] = _decode(name, value, _PATH_TEXT)
    if question:
        _check_query(query)
    _check_values(attributes)
    uri = Pkcs11Uri(attributes, vendor)
    if len(str(uri)) > limits.KEY_URI_B:  # it crosses borders as we write it, and that escapes more
        _refuse(f"more than {limits.KEY_URI_B} bytes with all its % escapes")
    return uri


def _check_query(query: str) -> None:
    seen: set[str] = set()
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not equals or not _VENDOR_NAME.fullmatch(name):
            _refuse("a part of the query is no attribute=value")
        if name in ("pin-value", "pin-source"):
            _refuse(f"{name} is not allowed: the PIN comes from pkcs11_pin_file or a systemd credential")
        if name in ("module-name", "module-path"):
            _refuse(f"{name} is not allowed: modules come from pkcs11_path")
        if name in seen:
            _refuse(f"{name} stands there twice")
        seen.add(name)
        _decode(name, value, _QUERY_TEXT)


def _check_values(attributes: Mapping[str, bytes]) -> None:
    if "type" in attributes and attributes["type"] not in _TYPES:
        _refuse(f"type is none of {', '.join(TYPES)}")
    if "slot-id" in attributes and not attributes["slot-id"].isdigit():
        _refuse("slot-id is no number")
    if "library-version" in attributes and not _VERSION.fullmatch(attributes["library-version"]):
        _refuse("library-version is no version")
