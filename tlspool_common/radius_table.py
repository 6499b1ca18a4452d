"""The RADIUS attributes that the pool knows: one row for each.

docs/radius.md and the dictionary file for servers (examples/radius/dictionary.tlspool) are made from it, and
tlspool_radius has its codec from it.  What is not here is not read from a server, and cannot be sent to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

VENDOR = 44469
"""The private enterprise number of ARPA2, whose TLS Pool this one follows."""

VENDOR_NAME = "TLSPool"

TEXT_B = 253
"""A value (RFC 2865 section 5)."""

VENDOR_TEXT_B = 247
"""A value of a vendor's attribute (RFC 2865 section 5.26)."""


class Use(IntEnum):
    """What an attribute is for; a bit set."""

    REQUEST = 1  # rules may set it, in questions and in accounting
    REPLY = 2  # it is read in answers
    ACCOUNT = 4  # the pool sets it in accounting
    DYNAMIC = 8  # it is read in requests of RFC 5176


_Q, _R, _A, _D = Use.REQUEST, Use.REPLY, Use.ACCOUNT, Use.DYNAMIC


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        kind: string, octets, integer (32 bits), ipaddr or ipv6addr, as dictionaries name them.
        vendor: 0, or VENDOR.
        values: names of an integer's values.
        doc: what it holds, for operators.
    """

    name: str
    number: int
    kind: str
    use: int
    doc: str
    vendor: int = 0
    values: tuple[tuple[str, int], ...] = ()

    @property
    def size_b(self) -> int:
        """Bytes that a value has at most."""
        return VENDOR_TEXT_B if self.vendor else TEXT_B


def _ours(name: str, number: int, kind: str, use: int, doc: str) -> Attribute:
    return Attribute(f"{VENDOR_NAME}-{name}", number, kind, use, doc, VENDOR)


TABLE: tuple[Attribute, ...] = (
    # RFC 2865
    Attribute("User-Name", 1, "string", _Q | _R | _D, "the remote identity; its realm is what is behind the @"),
    Attribute("User-Password", 2, "octets", 0, "of `authenticate`: hidden as RFC 2865 section 5.2 has it"),
    Attribute("NAS-IP-Address", 4, "ipaddr", _Q | _D, "an address of this host"),
    Attribute("NAS-Port", 5, "integer", _Q | _D, "a number"),
    Attribute(
        "Service-Type",
        6,
        "integer",
        _Q,
        "Authenticate-Only and Authorize-Only tell the two questions apart",
        values=(("Login-User", 1), ("Framed-User", 2), ("Authenticate-Only", 8), ("Authorize-Only", 17)),
    ),
    Attribute("Filter-Id", 11, "string", _R | _D, "becomes a tag of the remote identity"),
    Attribute("Reply-Message", 18, "string", _R, "is told to the application that is refused"),
    Attribute("State", 24, "octets", _R, "is sent back when a server asks for a new question"),
    Attribute("Class", 25, "octets", _R | _A, "is kept, and sent with accounting"),
    Attribute("Session-Timeout", 27, "integer", _R | _D, "seconds until the session is ended; 0: never"),
    Attribute("Idle-Timeout", 28, "integer", _R | _D, "seconds without traffic until it is ended; 0: never"),
    Attribute(
        "Termination-Action",
        29,
        "integer",
        _R,
        "what happens when Session-Timeout is over: the session ends, or is asked about again",
        values=(("Default", 0), ("RADIUS-Request", 1)),
    ),
    Attribute("Called-Station-Id", 30, "string", _Q | _D, "our identity"),
    Attribute("Calling-Station-Id", 31, "string", _Q | _D, "the remote's network address"),
    Attribute("NAS-Identifier", 32, "string", _Q | _D, "the resource: the domain of our identity"),
    Attribute("Proxy-State", 33, "octets", _D, "is sent back as it came"),
    Attribute(
        "NAS-Port-Type",
        61,
        "integer",
        _Q,
        "",
        values=(("Async", 0), ("Sync", 1), ("Virtual", 5), ("Ethernet", 15)),
    ),
    Attribute("Connect-Info", 77, "string", _Q, "text about the connection"),
    Attribute("Message-Authenticator", 80, "octets", _R, "RFC 3579 section 3.2, RFC 5080 section 2.2.2"),
    Attribute("NAS-IPv6-Address", 95, "ipv6addr", _Q | _D, "an address of this host"),
    Attribute("Error-Cause", 101, "integer", 0, "why a request of RFC 5176 is not done"),
    Attribute("Chargeable-User-Identity", 89, "octets", _Q | _R | _A, "RFC 4372"),
    # RFC 2866, 2869
    Attribute(
        "Acct-Status-Type",
        40,
        "integer",
        _A,
        "",
        values=(("Start", 1), ("Stop", 2), ("Interim-Update", 3), ("Accounting-On", 7), ("Accounting-Off", 8)),
    ),
    Attribute("Acct-Delay-Time", 41, "integer", _A, "seconds between the event and this packet"),
    Attribute("Acct-Input-Octets", 42, "integer", _A, "from the remote, modulo 2^32"),
    Attribute("Acct-Output-Octets", 43, "integer", _A, "to the remote, modulo 2^32"),
    Attribute("Acct-Session-Id", 44, "string", _A | _D, "one session, or one item of an application; never used twice"),
    Attribute("Acct-Authentic", 45, "integer", _A, "", values=(("RADIUS", 1), ("Local", 2), ("Remote", 3))),
    Attribute("Acct-Session-Time", 46, "integer", _A, "seconds since the start"),
    Attribute("Acct-Input-Packets", 47, "integer", _A, "TLS records with data from the remote"),
    Attribute("Acct-Output-Packets", 48, "integer", _A, "TLS records with data to the remote"),
    Attribute(
        "Acct-Terminate-Cause",
        49,
        "integer",
        _A,
        "",
        values=(
            ("User-Request", 1),
            ("Lost-Carrier", 2),
            ("Lost-Service", 3),
            ("Idle-Timeout", 4),
            ("Session-Timeout", 5),
            ("Admin-Reset", 6),
            ("NAS-Error", 9),
            ("NAS-Request", 10),
            ("NAS-Reboot", 11),
            ("User-Error", 17),
            ("Host-Request", 18),
        ),
    ),
    Attribute("Acct-Multi-Session-Id", 50, "string", _A, "the session that an application's item belongs to"),
    Attribute("Acct-Input-Gigawords", 52, "integer", _A, "how often Acct-Input-Octets went beyond 2^32"),
    Attribute("Acct-Output-Gigawords", 53, "integer", _A, "how often Acct-Output-Octets did"),
    Attribute("Event-Timestamp", 55, "integer", _A | _D, "seconds since 1970 at the event (RFC 2869 section 5.3)"),
    Attribute("Acct-Interim-Interval", 85, "integer", _R, "seconds between updates, instead of `radius_interim_s`"),
    # ours
    _ours("Local-Identity", 1, "string", _Q, "our identity"),
    _ours("Remote-Identity", 2, "string", _Q, "the remote identity"),
    _ours("Service", 3, "string", _Q, "service name of the request"),
    _ours("Role", 4, "string", _Q, "client or server: what we are"),
    _ours("Caller-User", 5, "string", _Q, "user of the application"),
    _ours("Caller-Unit", 6, "string", _Q, "systemd unit of the application"),
    _ours("TLS-Version", 7, "string", _Q, "TLSv1.3"),
    _ours("Cipher", 8, "string", _Q, "cipher suite"),
    _ours("Group", 9, "string", _Q, "key exchange group"),
    _ours("Certificate", 10, "string", _Q, "SHA-256 of the remote's certificate, hexadecimal"),
    _ours("Generation", 11, "string", _Q, "generation of the databases that admitted the session"),
    _ours("Tag", 12, "string", _R, "becomes a tag of the remote identity, as Filter-Id does"),
    _ours("Kind", 20, "string", _A, "what an application accounts for, in its own words"),
    _ours("Instance", 21, "string", _A, "which one of that kind"),
    _ours("Items", 22, "integer", _A, "a final count of items, modulo 2^32"),
    _ours("Items-Gigawords", 23, "integer", _A, "how often it went beyond 2^32"),
    _ours("Record-Id", 24, "string", _A, "of each accounting record: a record that comes twice has the same"),
)

BY_NAME = {attribute.name: attribute for attribute in TABLE}


def dictionary(vendors: tuple[int, ...] = (0, VENDOR)) -> str:
    """Return the table as a dictionary file: pyrad wants all of it, a server has those of no vendor already."""
    lines: list[str] = []
    for vendor in vendors:
        if vendor:
            lines += [f"VENDOR\t{VENDOR_NAME}\t{VENDOR}", f"BEGIN-VENDOR\t{VENDOR_NAME}"]
        for one in TABLE:
            if one.vendor == vendor:
                lines.append(f"ATTRIBUTE\t{one.name}\t{one.number}\t{one.kind}")
                lines += [f"VALUE\t{one.name}\t{name}\t{number}" for name, number in one.values]
        if vendor:
            lines.append(f"END-VENDOR\t{VENDOR_NAME}")
    return "\n".join(lines) + "\n"
