"""XMPP: STARTTLS of RFC 6120 section 5, for clients and between servers.

Each stream begins with a header that names the domain in ``to``; after STARTTLS both begin anew, so that nothing of
the first stream counts.  As client we ask for the domain that the remote must prove to be; as server we answer for
our own domain only (host-unknown, section 4.9.3.6).

The XML is that of RFC 6120 section 11: no comments, no processing instructions, no document types, no entities but
the five.  It is read tag by tag, and what is not a tag that is expected ends the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar

from tlspool_admin.preambles.lines import quoted
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import LINES, NeedUntil, Refused, Say, Script, Side, Step

_STREAMS = "http://etherx.jabber.org/streams"
_TLS = "urn:ietf:params:xml:ns:xmpp-tls"
_NAME = r"[A-Za-z_][\w.\-]{0,63}(?::[A-Za-z_][\w.\-]{0,63})?"
_TAG = re.compile(
    rf"(?P<text>[^<]*)<(?P<end>/?)(?P<name>{_NAME})"
    rf"(?P<attributes>(?:\s+{_NAME}\s*=\s*(?:'[^'<>]*'|\"[^\"<>]*\"))*)\s*(?P<empty>/?)>",
    re.ASCII,
)
_ATTRIBUTE = re.compile(rf"({_NAME})\s*=\s*(?:'([^'<>]*)'|\"([^\"<>]*)\")", re.ASCII)
_DECLARATION = re.compile(rb"\s*<\?xml\s[^<>&?]{0,100}\?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag, with the text before it.  ``name`` is without prefix, ``space`` what the prefix stands for in the tag."""

    name: str
    space: str
    is_end: bool
    is_empty: bool
    text: str
    attributes: dict[str, str] = field(default_factory=dict)


class Xmpp(Protocol):
    """Clients and their server."""

    name: ClassVar[str] = "xmpp"
    content: ClassVar[str] = "jabber:client"

    def client(self, names: Names) -> Script:
        """Stream, features, starttls."""
        side = Side.CRYPT
        yield Say(side, _header(f"to='{_escaped(names.domain)}'", self.content))
        yield from _stream(side)
        if "starttls" not in (yield from _features(side)):
            raise Refused(side, "the server does not offer STARTTLS, or somebody on the way took the offer out")
        yield Say(side, f"<starttls xmlns='{_TLS}'/>".encode())
        answer = yield from _element(side)
        if (answer.name, answer.space) != ("proceed", _TLS):
            raise Refused(side, f"starttls was answered with {quoted(answer.name)}")
        return b""

    def server(self, names: Names) -> Script:
        """Offer nothing but starttls, and wait for it."""
        side = Side.CRYPT
        header = yield from _stream(side)
        wanted = header.attributes.get("to", names.domain).lower().removesuffix(".")
        yield Say(side, _header(f"from='{_escaped(names.domain)}' id='{_escaped(names.nonce)}'", self.content))
        if wanted != names.domain:
            yield Say(side, _error("host-unknown"))
            raise Refused(side, f"the client asks for {quoted(wanted)}")
        offer = f"<stream:features><starttls xmlns='{_TLS}'><required/></starttls></stream:features>"
        yield Say(side, offer.encode())
        asked = yield from _element(side)
        if (asked.name, asked.space) != ("starttls", _TLS):
            yield Say(side, _error("policy-violation"))
            raise Refused(side, f"the client sent {quoted(asked.name)} in place of starttls")
        yield Say(side, f"<proceed xmlns='{_TLS}'/>".encode())
        return b""


class XmppServer(Xmpp):
    """Between servers."""

    name: ClassVar[str] = "xmpp-server"
    content: ClassVar[str] = "jabber:server"


def _header(attributes: str, content: str) -> bytes:
    text = (
        f"<?xml version='1.0'?><stream:stream {attributes} version='1.0' xmlns='{content}' xmlns:stream='{_STREAMS}'>"
    )
    return text.encode()


def _error(condition: str) -> bytes:
    inner = f"<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
    return f"<stream:error>{inner}</stream:error></stream:stream>".encode()


def _escaped(text: str) -> str:
    for plain, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&apos;"), ('"', "&quot;")):
        text = text.replace(plain, entity)
    return text


def _tag_untrusted(side: Side, data: bytes) -> _Tag:
    """Read everything up to a tag, and the tag.

    Raises:
        Refused: it is something else.
    """
    try:
        found = _TAG.fullmatch(data.decode("utf-8"))
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise Refused(side, f"no XML of XMPP: {quoted(data.decode('utf-8', 'replace'))}")
    attributes = {match[1]: match[2] or match[3] or "" for match in _ATTRIBUTE.finditer(found["attributes"])}
    prefix, colon, name = found["name"].rpartition(":")
    space = attributes.get(f"xmlns:{prefix}" if colon else "xmlns", "")
    return _Tag(name, space, bool(found["end"]), bool(found["empty"]), found["text"], attributes)


def _tag(side: Side) -> Generator[Step, bytes, _Tag]:
    data = yield NeedUntil(side, b">")
    return _tag_untrusted(side, data)


def _bare_tag(side: Side) -> Generator[Step, bytes, _Tag]:
    """Hear a tag with nothing but white space before it."""
    tag = yield from _tag(side)
    if tag.text.strip():
        raise Refused(side, f"text where none belongs: {quoted(tag.text)}")
    return tag


def _stream(side: Side) -> Generator[Step, bytes, _Tag]:
    """Hear the header of a stream."""
    data = yield NeedUntil(side, b">")
    if _DECLARATION.fullmatch(data):
        data = yield NeedUntil(side, b">")
    tag = _tag_untrusted(side, data)
    if (tag.name, tag.space) != ("stream", _STREAMS) or tag.text.strip() or tag.is_end or tag.is_empty:
        raise Refused(side, "what came is no stream of XMPP")
    if not re.fullmatch(r"[1-9][0-9]{0,3}\.[0-9]{1,4}", tag.attributes.get("version", "")):
        raise Refused(side, "the stream is older than version 1.0, which has no STARTTLS")
    return tag


def _element(side: Side) -> Generator[Step, bytes, _Tag]:
    """Hear an element that has nothing in it."""
    tag = yield from _bare_tag(side)
    if tag.is_end:
        raise Refused(side, "the stream was closed")
    if tag.name == "error":
        condition = yield from _bare_tag(side)
        raise Refused(side, f"the stream was ended with {quoted(condition.name)}")
    if tag.is_empty or tag.name == "failure":
        return tag
    end = yield from _bare_tag(side)
    if not end.is_end or end.name != tag.name:
        raise Refused(side, f"{quoted(tag.name)} holds {quoted(end.name)}")
    return tag


def _features(side: Side) -> Generator[Step, bytes, set[str]]:
    """Hear the features of a stream, and return the names of those that are in the namespace of TLS."""
    tag = yield from _bare_tag(side)
    if tag.name == "error":
        condition = yield from _bare_tag(side)
        raise Refused(side, f"the stream was ended with {quoted(condition.name)}")
    if tag.name != "features" or tag.is_end:
        raise Refused(side, f"{quoted(tag.name)} came in place of the features")
    found: set[str] = set()
    open_names = [] if tag.is_empty else [tag.name]
    for _ in range(LINES * 4):
        if not open_names:
            return found
        tag = yield from _tag(side)
        if tag.is_end:
            if tag.name != open_names.pop():
                raise Refused(side, f"{quoted(tag.name)} ends what it did not begin")
            continue
        if len(open_names) == 1 and tag.space == _TLS:
            found.add(tag.name)
        if not tag.is_empty:
            open_names.append(tag.name)
    raise Refused(side, f"features with more than {LINES * 4} tags")
