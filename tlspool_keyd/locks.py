"""Tokens that an operator has locked: nothing is signed by them, and nobody is logged in to them.

A lock is a PKCS #11 URI without an object, and holds for every token that it may mean, for one that is put in later,
too.  A key whose URI may be on a locked token is refused, even if it turned out to be on another one: what was locked
was so because a key may have been stolen.  (``tlspool localid import`` writes URIs that name their token.)

Locks are in memory.  They survive the end of a token process and the return of a token, and not the end of keyd: who
wants a token out of use for longer takes its line, or its PIN, out of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_keyd.pkcs11uri import PLACE_ATTRIBUTES, Pkcs11Uri, parse_untrusted, quote

ALL = "pkcs11:"
"""Means every token."""

LOCKS = 64
"""At a time; as many as a token process names tokens."""

DETAIL = "an operator has locked it"


def uri_untrusted(text: str) -> str:
    """Return the lock that an operator means: a URI, or the label of a token, or nothing for all.

    Raises:
        PoolError: KEY_URI_MALFORMED, or FIELD_MALFORMED: it names an object, or nothing that a token has.
    """
    if text and not text.startswith(ALL):
        text = f"{ALL}token={quote(text.encode('utf-8', 'replace'))}"
    uri = parse_untrusted(text or ALL)
    if uri.attributes.keys() & {"object", "id", "type"}:
        raise PoolError(Code.FIELD_MALFORMED, "a whole token is locked: leave object=, id= and type= out")
    if uri.vendor or "?" in text:  # such as toke=x: left out, it would be every token
        raise PoolError(Code.FIELD_MALFORMED, f"a token is named by {', '.join(PLACE_ATTRIBUTES)}; and {ALL} is all")
    return str(uri)


def asked_untrusted(request: Mapping[str, object]) -> str:
    """Return the lock that a request of an operator is about: field ``token``, or its first word.

    Raises:
        PoolError: FIELD_MALFORMED, KEY_URI_MALFORMED.
    """
    args = request.get("args")
    value = request.get("token", args[0] if isinstance(args, list) and args else "")
    if not isinstance(value, str) or len(value) > limits.KEY_URI_B:
        raise PoolError(Code.FIELD_MALFORMED, f"token must be a label or a URI of at most {limits.KEY_URI_B} bytes")
    return uri_untrusted(value)


class Locks:
    """The locks."""

    def __init__(self) -> None:
        self._uris: dict[str, Pkcs11Uri] = {}

    def __len__(self) -> int:
        return len(self._uris)

    @property
    def names(self) -> list[str]:
        """The locks as they were given."""
        return list(self._uris)

    def __copy__(self) -> Locks:
        other = Locks()
        other._uris = dict(self._uris)
        return other

    def add(self, uri: str, tokens: Iterable[str]) -> None:
        """Lock; ``tokens`` are those that there are.

        Raises:
            PoolError: TOKEN_GONE, it means none of these: a slip of the pen must not look like a lock.
        """
        wanted = parse_untrusted(uri)
        if uri != ALL and not any(_may_be(token, wanted) for token in tokens):
            raise PoolError(Code.TOKEN_GONE, f"no token is called {uri}; tlspool keys tokens lists them")
        if uri not in self._uris and len(self._uris) >= LOCKS:
            raise PoolError(Code.FIELD_MALFORMED, f"there are {LOCKS} locks; lock all tokens instead")
        self._uris[uri] = wanted

    def remove(self, uri: str) -> None:
        """Unlock by the name that it was locked by; ALL takes every lock away.

        Raises:
            PoolError: TOKEN_GONE, there is no such lock.
        """
        if uri == ALL:
            self._uris.clear()
        elif self._uris.pop(uri, None) is None:
            raise PoolError(Code.TOKEN_GONE, f"{uri} is not locked by that name; locked are: {', '.join(self._uris)}")

    def covers(self, uri: str) -> bool:
        """Whether a token or a key may be behind a lock."""
        if not self._uris:
            return False
        parsed = parse_untrusted(uri)
        return any(locked.may_match(parsed) for locked in self._uris.values())

    def mark(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Return lines ``URI STATE`` of TokenOpened, with the state of what is locked."""
        if not self._uris:
            return tuple(lines)
        return tuple(f"{uri} {Code.TOKEN_LOCKED.name}" if self._has(uri) else line for uri, line in _named(lines))

    def of(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Return the tokens among such lines that are locked."""
        return tuple(uri for uri, _ in _named(lines) if self._has(uri))

    def _has(self, token: str) -> bool:
        return any(_may_be(token, locked) for locked in self._uris.values())


def _named(lines: Iterable[str]) -> list[tuple[str, str]]:
    return [(line.rpartition(" ")[0], line) for line in lines]


def _may_be(token: str, wanted: Pkcs11Uri) -> bool:
    """Whether a token may be meant; one that a broken process names so that it cannot be read may be any."""
    try:
        return wanted.may_match(parse_untrusted(token))
    except PoolError:
        return True
