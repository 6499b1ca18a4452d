"""Where a certificate may send us: http URLs, and the addresses behind their names.

A certificate is written by somebody else, and so is the answer of a name server: without these rules whoever gets a
certificate could make this host send requests to its own neighbours, and to services that only listen inside.
Only addresses are judged, never names, and the address that was judged is the one that is connected to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urljoin, urlsplit

from tlspool_common import limits
from tlspool_common.record import record

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
"""Labels of at most 63 characters (RFC 1035 section 2.3.4): name libraries take exception to anything else."""

_PRINTABLE = re.compile(r"[!-~]+")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # RFC 1122 section 3.2.1.3; Linux takes 0.0.0.0 for loopback

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class BadLocator(ValueError):
    """A URL that is not followed; the text says why."""


@record
class Locator:
    """The parts of an http URL that a request needs; ``host`` without brackets, ``target`` begins with a slash."""

    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The value of a Host field (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL again."""
        return f"http://{self.authority}{self.target}"


def parse_untrusted(url: str, ports: Collection[int], longest_b: int = limits.URL_B) -> Locator:
    """Read a URL of a certificate, or of a redirection.

    Raises:
        BadLocator: it is none that is followed.
    """
    if not _PRINTABLE.fullmatch(url) or len(url) > longest_b:
        raise BadLocator(f"not at most {longest_b} printable characters")
    try:
        parts = urlsplit(url)
        port = 80 if parts.port is None else parts.port
        host = parts.hostname or ""
    except ValueError:
        raise BadLocator("no URL") from None
    if parts.scheme != "http":
        raise BadLocator(f"only http is asked, not {parts.scheme[:20] or 'this'}")
    if "@" in parts.netloc:
        raise BadLocator("names a user")
    if "\\" in url:
        raise BadLocator("no URL")
    if port not in ports:
        raise BadLocator(f"port {port} is not among those that are asked (setting online_ports)")
    if "[" in parts.netloc:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise BadLocator("no IPv6 address") from None
        if "%" in host:
            raise BadLocator("an address with a scope")
    elif not _HOST.fullmatch(host):
        raise BadLocator("no host name")
    return Locator(host.lower(), port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def redirected_untrusted(base: Locator, location: str, ports: Collection[int]) -> Locator:
    """Read where a response sends us.

    Raises:
        BadLocator: it is nowhere that is followed.
    """
    if not _PRINTABLE.fullmatch(location) or len(location) > limits.URL_B:
        raise BadLocator(f"redirects to what is not at most {limits.URL_B} printable characters")
    try:
        joined = urljoin(base.url, location)
    except ValueError:
        raise BadLocator("redirects to no URL") from None
    return parse_untrusted(joined, ports, 2 * limits.URL_B)


def refusal(address: str, private: bool) -> str:
    """Say why an address is not connected to; '' when it may be.  ``private``: this host and its network are asked."""
    try:
        parsed: Address = ipaddress.ip_address(address)
    except ValueError:
        return "is no address"
    return next((why for one in _meanings(parsed) if (why := _refusal(one, private))), "")


def _meanings(address: Address) -> list[Address]:
    """Return the addresses that an address stands for to others on the way, and the address itself."""
    found: list[Address] = []
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address in _NAT64:
            return [ipaddress.IPv4Address(address.packed[12:])]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found += address.teredo
    return [*found, address]


def _refusal(address: Address, private: bool) -> str:
    if address.is_unspecified or (isinstance(address, ipaddress.IPv4Address) and address in _THIS_NETWORK):
        return "is unspecified"
    if address.is_multicast:
        return "is multicast"
    if address.is_link_local:
        return "is link-local"
    if address.is_loopback:
        return "" if private else "is this host (setting online_private)"
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    if address.is_reserved and not site_local:
        return "is reserved"
    if not address.is_global or site_local:
        return "" if private else "is private (setting online_private)"
    return ""
