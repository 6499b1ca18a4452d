"""Identities (DoNAI), selectors, and the names in certificates that prove them.

A DoNAI, "domain or network access identifier", is ``domain`` or ``user@domain``; the last ``@`` splits.  A
selector is the same text with two freedoms: an empty user (any user) and a domain that starts with a dot
(anything below it; ``.`` alone is any domain at all).

Every text from outside goes through ``parse_untrusted`` once, and all later comparisons are equality:

* user and domain are lower-cased; the domain becomes A-labels (RFC 5890) and loses one trailing dot;
* IDNA is the standard library's codec (RFC 3490, "IDNA 2003"), used label by label.  It differs from RFC 5891
  for four characters (sharp s, final sigma, the two joiners), which it maps away, so that two registered
  domains could be taken for one.  Text with these is refused; its owner writes the A-label, which passes as is.
  A label that becomes more than one label, or something that is no host name, is refused as well;
* a user is put in Unicode normal form C (RFC 8265 section 3.3), so that what looks equal is equal;
* an IP address stays the text that it is; ``[2001:db8::1]`` and ``2001:db8::1`` are both taken.

This module never touches a socket, a database or a certificate.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError

_TEXT_B = 512
"""Text longer than this is not looked at: upstream's DONAI_MAXLEN, four times what fits on the wire."""

_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
"""A host name label (RFC 1123 section 2.1), and the underscore of service names (RFC 8552)."""

_DOMAIN = re.compile(rf"{_LABEL.pattern}(?:\.{_LABEL.pattern})*")

_DEVIATIONS = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")
"""Characters that IDNA 2003 maps and IDNA 2008 keeps (UTS 46 section 7)."""


@dataclass(frozen=True, slots=True)
class Donai:
    """An identity, or a selector in the same form (empty ``user``, dotted ``domain``)."""

    user: str | None
    domain: str

    def __str__(self) -> str:
        return self.domain if self.user is None else f"{self.user}@{self.domain}"

    @property
    def is_address(self) -> bool:
        """Whether the domain is an IP address, which is never sent as SNI (RFC 6066 section 3)."""
        return _address(self.domain) is not None


@lru_cache(maxsize=1024)  # a session asks several times about the same two; 1024 longest texts are 0.5 MiB
def parse_untrusted(text: str) -> Donai:
    """Read an identity and bring it in normal form.

    Raises:
        PoolError: IDENTITY_MALFORMED, with the reason.
    """
    user, domain = _split_untrusted(text)
    if user == "":
        raise _malformed(text, "the user before @ is empty")
    if domain.startswith("."):
        raise _malformed(text, "a domain that starts with a dot is a selector")
    return _fitting(Donai(user, _domain_untrusted(text, domain)), text)


def parse_selector_untrusted(text: str) -> Donai:
    """Read a selector and bring it in normal form; any identity is a selector too.

    Raises:
        PoolError: IDENTITY_MALFORMED, with the reason.
    """
    user, domain = _split_untrusted(text)
    if domain == ".":
        return _fitting(Donai(user, domain), text)
    if domain.startswith("."):
        return _fitting(Donai(user, "." + _domain_untrusted(text, domain[1:])), text)
    return _fitting(Donai(user, _domain_untrusted(text, domain)), text)


def generalise(donai: Donai) -> Iterator[str]:
    """Yield the selectors that match an identity, most concrete first.

    On each level both ``user@level`` and ``@level`` come before the next level up; an identity with a user
    never becomes a selector without ``@``.  The text is taken as it is: normal form is parse_untrusted's work.
    """
    for level in _levels(donai.domain):
        if donai.user is None:
            yield level
            continue
        if donai.user:
            yield f"{donai.user}@{level}"
        yield f"@{level}"


def matches(donai: Donai, selector: str) -> bool:
    """Tell whether a selector, in normal form, matches: by definition one of what generalise yields."""
    return selector in generalise(donai)


def remote_matches(expected: Donai, names: Iterable[str], domain_represents_user: bool) -> bool:
    """Tell whether the names of a verified certificate prove the expected identity.

    Names are ``dns:NAME``, ``email:NAME`` and ``ip:ADDRESS``, as the certificate has them; malformed ones prove
    nothing.  A domain needs a DNS name (wildcard: the whole left-most label, RFC 6125 section 6.4.3, with two
    labels behind it), an address needs that address (never a DNS name), a user needs exactly that mailbox.
    With ``domain_represents_user`` a DNS name equal to the domain speaks for its users; a wildcard does not.
    """
    return any(_proves_untrusted(name, expected, domain_represents_user) for name in names)


def best_name(names: Iterable[str]) -> str:
    """Return the most specific identity among a certificate's names, in normal form; '' when there is none.

    The first mailbox, else the first DNS name that is no wildcard, else the first address.
    """
    found: dict[str, str] = {}
    for name in names:
        kind, _, value = name.partition(":")
        if kind in {"dns", "email", "ip"} and kind not in found and "*" not in value:
            try:
                donai = parse_untrusted(value)
            except PoolError:
                continue
            if (donai.user is not None) == (kind == "email") and donai.is_address == (kind == "ip"):
                found[kind] = str(donai)
    return found.get("email") or found.get("dns") or found.get("ip") or ""


def _levels(domain: str) -> Iterator[str]:
    yield domain
    while domain != ".":
        dot = domain.find(".", 1)
        domain = domain[dot:] if dot > 0 else "."
        yield domain


def _split_untrusted(text: str) -> tuple[str | None, str]:
    """Split at the last @, with the user in normal form and the domain not yet."""
    if len(text) > _TEXT_B:
        raise PoolError(Code.IDENTITY_MALFORMED, f"{len(text)} characters")
    # Blanks and controls have no place in either half, would break log lines, and include NUL.
    if not text.isprintable() or " " in text:  # no other blank can be printed
        raise _malformed(text, "blank, control or unprintable character")
    user, at, domain = text.rpartition("@")
    if not domain:
        raise _malformed(text, "the domain is empty")
    if not at:
        return None, domain
    # Lower case can undo normal form C, and the contrary: both sides of it are needed for a fixed point.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", user).lower()), domain


def _domain_untrusted(text: str, domain: str) -> str:
    """Return a domain without leading dot in normal form."""
    if _address(domain) is not None:
        return domain.lower()
    if domain.endswith("."):
        domain = domain[:-1]
    if domain.isascii() and _DOMAIN.fullmatch(lower := domain.lower()):
        return lower
    labels = domain.split(".")
    normal = [_label_untrusted(text, label) for label in labels]
    if labels[0] == "*" and len(labels) > 1:
        normal[0] = "*"  # literal here: only the names of a certificate have wildcards
    if None in normal:
        wrong = labels[normal.index(None)]
        raise _malformed(text, f"{wrong!r} is no label of a domain" if wrong else "an empty label")
    return ".".join(label for label in normal if label is not None)


def _label_untrusted(text: str, label: str) -> str | None:
    """Return one label as A-label in lower case; None when it is none."""
    if not label.isascii():
        if not _DEVIATIONS.isdisjoint(label):
            raise _malformed(text, f"{label!r} is ambiguous in IDNA; write its A-label (xn--...)")
        label = _idna_untrusted(label)
    label = label.lower()
    return label if _LABEL.fullmatch(label) else None


@lru_cache(maxsize=256)  # the codec is slow, and who asks for an identity asks for a selector as well
def _idna_untrusted(label: str) -> str:
    """Return the A-label; '' when there is none."""
    try:
        return label.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _fitting(donai: Donai, text: str) -> Donai:
    size_b = len(str(donai).encode())
    if size_b > limits.IDENTITY_B:
        raise _malformed(text[:40], f"{size_b} bytes")
    return donai


def _malformed(text: str, why: str) -> PoolError:
    return PoolError(Code.IDENTITY_MALFORMED, f"{text!r}: {why}")


def _address(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" not in domain and not domain[-1:].isdigit():
        return None  # the usual case; it saves asking a module that answers by an exception
    bare = domain[1:-1] if domain.startswith("[") and domain.endswith("]") else domain
    if "%" in bare:
        return None  # a zone is of this host only, and no certificate can name it
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    return None if bare != domain and address.version == 4 else address


def _proves_untrusted(name: str, expected: Donai, domain_represents_user: bool) -> bool:
    kind, _, value = name.partition(":")
    if kind == "email":
        return expected.user is not None and _mailbox_untrusted(value) == expected
    if kind == "ip":
        wanted = _address(expected.domain)
        return expected.user is None and wanted is not None and _address(value) == wanted
    if kind != "dns" or "*" in expected.domain or expected.is_address:
        return False
    pattern = value.lower()
    if expected.user is not None:
        return domain_represents_user and pattern == expected.domain
    if not pattern.startswith("*."):
        return pattern == expected.domain
    first, _, rest = expected.domain.partition(".")
    return first != "" and "." in rest and pattern[2:] == rest


def _mailbox_untrusted(value: str) -> Donai | None:
    try:
        return parse_untrusted(value)
    except PoolError:
        return None
