"""Every number that bounds something, with the reason for it and what others chose.

Settings an operator may change live in settings.py; these are the walls.
"""

from __future__ import annotations

# --- identities -------------------------------------------------------------------------------------

IDENTITY_B = 127
"""A DoNAI: 128-byte fields with NUL in protocol V2 of the application socket."""

IDENTITY_NAMES = 64
"""Names taken from one certificate.  Public CAs stop at 100; a worker reports the first ones only."""

IDENTITY_NAME_B = 320
"""One name with its kind: an addr-spec is at most 254 octets (RFC 5321 section 4.5.3.1.3), plus prefix."""

SUBJECT_B = 1024
"""A distinguished name as RFC 4514 text, shortened beyond this."""

SNI_B = 255
"""A DNS name (RFC 1035 section 2.3.4)."""

ALPN_B = 1024
"""A ProtocolNameList body (RFC 7301 section 3.1).  Browsers send 14 bytes; the field allows 65535."""

# --- certificates and keys --------------------------------------------------------------------------

CERTIFICATE_B = 16384
"""One DER certificate.  Web PKI leaves are 1 to 5 KiB; an ML-DSA-87 one has 7.5 KiB; nginx reads 16 KiB."""

CHAIN_CERTIFICATES = 8
"""Certificates in a local chain.  GnuTLS reads 16, OpenSSL verifies 100; more than 4 are not seen."""

KEY_URI_B = 512
"""A PKCS #11 URI without PIN; p11tool prints at most about 300 bytes."""

SPKI_B = 2200
"""A SubjectPublicKeyInfo: RSA-16384 has 2086 bytes."""

GRANT_B = 1024
"""A sealed grant: its fixed part has under 200 bytes, plus the key URI."""

SIGN_CONTENT_B = 65535
"""Content to be signed.  TLS 1.3 has 146 bytes; a TLS 1.2 client signs the whole transcript, 2 to 20 KiB."""

SIGNATURE_B = 2048
"""A signature: RSA-16384."""

PIN_B = 127
"""A token PIN: the field of PIOC_PINENTRY has 128 bytes with NUL; SoftHSM stops at 255."""

CERTIFICATE_LINE_B = 160
"""A line about one certificate: a key identifier of at most 64 bytes and a serial of at most 20, in hexadecimal."""

USAGES = 32
"""Extended key usages, and extensions, of a certificate; more than 12 are not seen."""

OID_B = 64
"""A dotted object identifier and a mark."""

URLS = 4
"""Distribution points, or responders, of a certificate; more than two are not seen."""

URL_B = 512
"""A URL in a certificate; public authorities stay below 120."""

OCSP_B = 16384
"""An OCSP response: 500 bytes to 3 KiB with the responder's certificate."""

VALEXP_B = 128
"""A validation expression: there are 30 predicates."""

LISTED_KEYS = 128
"""Keys in one answer to an operator: with their URIs half a frame."""

KEY_LINE_B = KEY_URI_B + 48
"""A line of that list: two words of a table, and the URI."""

TOLD_B = 350
"""What is told of a session that relays: the buffer of PIOC_PRNG, which is a little larger than that of PIOC_INFO."""

RECORD_B = 16384
"""What a worker keeps of a session for the broker: usually 1 KiB; the names of a certificate may be long, and so may be
what RADIUS servers want sent back."""

GRANT_LIFE_S = 300
"""Longest life of a grant.  The broker takes the handshake's deadline where that is nearer."""

# --- databases ---------------------------------------------------------------------------------------

PINS = 100_000
"""Pins of all remotes: trust on first use adds one for each that comes, and anybody can make up identities."""

FIRST_USE_PINS = 90_000
"""Of these by first use; the rest is for operators, who can pin when strangers have filled all that they can."""

REVOKED_SERIALS = 500_000
"""Revoked certificates of one issuer: the largest public lists have some 300 000, of 20 octets each."""

HISTORY_KEEP = 10_000
"""Generations that can be shown and undone, if no setting says otherwise: 27 changes a day for a year."""

PASTS = 16
"""Earlier generations that are remembered for sessions which were begun under them; a session holds its own."""

REASON_B = 500
"""Why an operator changed something: a sentence or two, or the address of a ticket."""

BATCH = 10_000
"""Operations in one transaction; certificate bundles have 150 anchors."""

REQUEST_B = 16 * 1024 * 1024
"""A request of an operator to the broker: 5000 trust anchors in base64, as one change, have some 10 MiB."""

# --- text -------------------------------------------------------------------------------------------

POLICY_TEXT_B = 1024
"""A cipher, group or signature algorithm list in OpenSSL's syntax."""

PROSE_B = 512
"""An explanation that crosses a border for log and operator."""

PATH_B = 4096
"""PATH_MAX of Linux."""

OWNER_B = 64
"""Whose a worker is, in its process title: a number and the name of a unit; ps shows some 80 characters of a line."""

# --- channels ---------------------------------------------------------------------------------------

FRAME_B = 160 * 1024
"""A border frame: a full chain fits (8 x 16 KiB).  SEQPACKET needs it to fit SO_SNDBUF (212992 by default)."""

FRAME_FDS = 1
"""Descriptors in a border frame: the most any row of the table has."""

CHANNEL_QUEUE_B = 4 * 1024 * 1024
"""Bytes waiting for a channel whose reader is slow; beyond it the channel is closed."""

# --- RADIUS -----------------------------------------------------------------------------------------

RADIUS_ATTRIBUTES = 48
"""Attributes of a question or a record: a packet has 4096 bytes (RFC 2865 section 3)."""

RADIUS_VALUE_B = 253
"""A value (RFC 2865 section 5)."""

RADIUS_ATTRIBUTE_B = 40 + RADIUS_VALUE_B
"""``Name=value``: no name of the table has more than 40 bytes."""

RADIUS_CLASSES = 8
"""Class attributes of an answer, all of which are to be sent back; servers send one, or one for each proxy."""

RADIUS_TAGS = 16
"""Filter-Id attributes of an answer."""

RADIUS_MESSAGE_B = 1024
"""Reply-Message attributes together: an application's error has 127 bytes for them, the log all."""

RADIUS_PASSWORD_B = 128
"""User-Password (RFC 2865 section 5.2)."""

RADIUS_ACCT_ID_B = 64
"""Acct-Session-Id: some databases of servers stop there."""

RADIUS_SERVER_B = 64
"""An address and a port."""

RADIUS_SERVERS = 24
"""Servers that are described: eight for each purpose."""

RADIUS_LISTED = 50
"""Waiting records in one answer to an operator."""

RADIUS_LINE_B = 700
"""A line about a server or a record."""

RADIUS_ITEMS = 10_000
"""Items of applications that are accounted for at a time; with 2 KiB each, some 20 MiB."""

RADIUS_ITEMS_PER_CALLER = 1_000
"""Of one user: what a busy service has under way at a time, and a tenth of all."""

RADIUS_ITEM_S = 7 * 86_400
"""For an application to speak of an item again: a week, after which it has forgotten it."""

RADIUS_ASKED_PER_CALLER = 64
"""Questions of one user's applications that are open at a time: a quarter of what the helper takes."""

RADIUS_SUBJECTS = 64
"""Of a connection: who was named, and not asked about yet; and verdicts whose tags are told."""
