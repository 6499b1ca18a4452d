"""What is said in plaintext before TLS: STARTTLS of many protocols, PROXY headers, and ways through proxies.

A connection has up to four parts, in this order, each a script (script.py):

    --accept-proxy    hear where the connection really comes from
    --send-proxy      tell the other side
    --via             ask a proxy for the server
    --protocol        agree on TLS, as the protocol does it

A module for each protocol, with one class that can play both sides.  The scripts are pure; talk.py moves the bytes.

What would have to change if a protocol were added: a module, and a line in PROTOCOLS.  MySQL cannot be: its packets
are numbered, and the request for TLS is one of them, so that the numbers of the whole login differ on the two sides;
and nothing here sees what goes through a session.
"""

from __future__ import annotations

from tlspool_admin.preambles.ftp import Ftp
from tlspool_admin.preambles.imap import Imap
from tlspool_admin.preambles.irc import Irc
from tlspool_admin.preambles.ldap import Ldap
from tlspool_admin.preambles.nntp import Nntp
from tlspool_admin.preambles.pop3 import Pop3
from tlspool_admin.preambles.postgres import Postgres
from tlspool_admin.preambles.protocol import Protocol
from tlspool_admin.preambles.sieve import Sieve
from tlspool_admin.preambles.smtp import Lmtp, Smtp
from tlspool_admin.preambles.xmpp import Xmpp, XmppServer

PROTOCOLS: dict[str, Protocol] = {
    made.name: made
    for made in (
        Ftp(),
        Imap(),
        Irc(),
        Ldap(),
        Lmtp(),
        Nntp(),
        Pop3(),
        Postgres(),
        Sieve(),
        Smtp(),
        Xmpp(),
        XmppServer(),
    )
}
"""By name, as ``--protocol`` takes them."""
