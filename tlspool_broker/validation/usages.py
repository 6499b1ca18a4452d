"""Which extended key usage a certificate should have, by service and by the role of who shows it.

RFC 5280 section 4.2.1.12.  A service that is not in the table wants what TLS itself wants.  The names are those of
applications (STARTTLS has a field of 16 bytes for it), which are IANA's for most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlspool_common.messages import Side

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
SIP_DOMAIN = "1.3.6.1.5.5.7.3.20"
CAPWAP_AC = "1.3.6.1.5.5.7.3.18"
CAPWAP_WTP = "1.3.6.1.5.5.7.3.19"

NAMES = {
    SERVER_AUTH: "serverAuth",
    CLIENT_AUTH: "clientAuth",
    SIP_DOMAIN: "id-kp-sipDomain",
    CAPWAP_AC: "id-kp-capwapAC",
    CAPWAP_WTP: "id-kp-capwapWTP",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server of a service shows, and what its clients; the source says where that is written."""

    server: str
    client: str
    source: str


DEFAULT = Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 5280 section 4.2.1.12")

TABLE: dict[str, Usage] = {
    "amqp": Usage(SERVER_AUTH, CLIENT_AUTH, "AMQP 1.0 part 5, which leaves it to TLS"),
    "capwap-control": Usage(CAPWAP_AC, CAPWAP_WTP, "RFC 5415 section 2.4.4.3"),
    "domain": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 8310 section 8"),
    "ftp": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 4217"),
    "http": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 9110 section 4.3.4"),
    "imap": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 7817"),
    "irc": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 7194"),
    "ldap": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 4513 section 3.1.3"),
    "mqtt": Usage(SERVER_AUTH, CLIENT_AUTH, "MQTT 5.0 section 5.4"),
    "nntp": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 4642"),
    "pop3": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 7817"),
    "postgresql": Usage(SERVER_AUTH, CLIENT_AUTH, "PostgreSQL's libpq, which leaves it to TLS"),
    "radsec": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 6614 section 2.3"),
    "sieve": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 7817"),
    "sip": Usage(SIP_DOMAIN, SIP_DOMAIN, "RFC 5924 section 4"),
    "smtp": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 3207, RFC 7817"),
    "syslog-tls": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 5425"),
    "xmpp-client": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 6120 section 13.7.1"),
    "xmpp-server": Usage(SERVER_AUTH, CLIENT_AUTH, "RFC 6120 section 13.7.1"),
}

_ALIASES = {
    "capwap": "capwap-control",
    "dns": "domain",
    "domain-s": "domain",
    "ftps": "ftp",
    "https": "http",
    "imaps": "imap",
    "ldaps": "ldap",
    "managesieve": "sieve",
    "mqtts": "mqtt",
    "nntps": "nntp",
    "pop3s": "pop3",
    "postgres": "postgresql",
    "sips": "sip",
    "smtps": "smtp",
    "submission": "smtp",
    "submissions": "smtp",
    "syslog": "syslog-tls",
    "xmpp": "xmpp-client",
}


def required(service: str, local: Side) -> str:
    """Return the usage that the remote's certificate needs."""
    name = service.lower()
    usage = TABLE.get(_ALIASES.get(name, name), DEFAULT)
    return usage.server if local is Side.CLIENT else usage.client


def has(usages: Sequence[str], oid: str) -> tuple[bool, bool]:
    """Return whether a usage is there, and whether its extension is critical.

    anyExtendedKeyUsage is not this usage: who asks for it wants it named.
    """
    return oid in usages or f"{oid}!" in usages, f"{oid}!" in usages


def named(oid: str) -> str:
    """Return the name of a usage; of one without, its number."""
    return NAMES.get(oid, oid)
