"""Border messages about who the remote is: what a worker has seen of it, what the broker decides, and what a
helper finds out online.

A part of the border table (messages.py).  The broker looks into no certificate of a remote: a worker describes it
(RemoteShown), and what goes on to the helper goes through the broker unread.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar

from tlspool_common import limits
from tlspool_common.codec import U8, U16, U32, U64, Bits, Items
from tlspool_common.message import Message
from tlspool_common.record import named_record


class Finding(IntEnum):
    """What is known of a certificate's revocation; good and revoked are signed, and in date."""

    NONE = 0  # nobody was asked, or nobody has anything to say
    GOOD = 1
    REVOKED = 2
    UNKNOWN = 3  # the responder does not know the certificate; a list has no entry because it is of somebody else
    BAD = 4  # an answer that does not verify, or is out of date
    ABSENT = 5  # proved: the issuer offers no such service


FindingField = Annotated[Finding, Bits(8)]
Chain = Annotated[tuple[bytes, ...], Items(limits.CHAIN_CERTIFICATES, limits.CERTIFICATE_B)]
Names = Annotated[tuple[str, ...], Items(limits.IDENTITY_NAMES, limits.IDENTITY_NAME_B)]
Lines = Annotated[tuple[str, ...], Items(limits.CHAIN_CERTIFICATES, limits.CERTIFICATE_LINE_B)]
Oids = Annotated[tuple[str, ...], Items(limits.USAGES, limits.OID_B)]
Urls = Annotated[tuple[str, ...], Items(limits.URLS, limits.URL_B)]
Sha256 = Annotated[bytes, 32]
Prose = Annotated[str, limits.PROSE_B]


@named_record
class RemoteShown(Message):
    """What the remote has shown, in the middle of the handshake, and what OpenSSL made of it.  Answered by Verdict.

    Sent for sessions whose StartSession has ``asks``, once the chain is complete; the handshake waits.  Nothing in
    here has been compared with what is wanted.

    * ``fault`` is 0 when the chain ends at an anchor and everything about it is in order, else the stable code of
      the first fault, with its ``detail``.
    * ``anchor_sha256`` is of the anchor's certificate; empty when the chain does not end at one.
    * ``self_signed``: the leaf is its own issuer, and its signature is good.
    * ``strengths``, leaf first, anchor included: ``KEY BITS HASH``, for example ``rsa 2048 sha256``,
      ``ec 256 sha384``, ``ed25519 256 -``, ``ml-dsa-65 0 -``; the hash is of the certificate's own signature.
    * ``usages``: extended key usages of the leaf as dotted OIDs, with ``!`` behind each if the extension is critical;
      none: the certificate is for every use.
    * ``extensions``: all OIDs of the leaf's extensions, ``!`` as above.
    * ``links``, leaf first, anchor left out: ``AUTHORITY-KEY-IDENTIFIER SERIAL``, hexadecimal; ``-`` for no identifier.
    * ``stapled`` is what came with the handshake (RFC 6066 section 8, RFC 8446 section 4.4.2.1).
    * ``chain`` has the certificates if StartSession has ``tells_chain``: leaf, and the issuers that were found.
    """

    REPEATS: ClassVar[str] = "anchor_sha256"  # from here on it is about the credential, and remotes come again

    session_id: U64
    tls_version: U16
    cipher: Annotated[str, 64]
    group: Annotated[str, 64]
    fault: U16
    detail: Prose
    anchor_sha256: Sha256
    self_signed: bool
    names: Names
    subject: Annotated[str, limits.SUBJECT_B]
    leaf_sha256: Sha256
    spki_sha256: Sha256
    not_after_s: U64
    strengths: Lines
    usages: Oids
    extensions: Oids
    links: Lines
    crl_urls: Urls
    ocsp_urls: Urls
    must_staple: bool
    stapled: FindingField
    stapled_detail: Prose
    chain: Chain


@named_record
class Verdict(Message):
    """What the broker has decided: ``code`` 0 accepts, any other refuses with the alert that fits it."""

    session_id: U64
    code: U16
    detail: Prose


@named_record
class OnlineHello(Message):
    """The helper that asks the network introduces itself."""

    protocol: U16
    pid: U32


@named_record
class AskRevocation(Message):
    """Is the first certificate of the chain revoked, and are its issuers?  Answered by RevocationTold.

    ``wants`` is a bit set: 1 certificate revocation lists, 2 OCSP.  An answer comes within ``deadline_ms``.
    """

    wants: U8
    chain: Chain
    crl_urls: Urls
    ocsp_urls: Urls
    deadline_ms: U32


@named_record
class RevocationTold(Message):
    """What was found; ``detail`` names sources, dates and reasons, for log and operator."""

    crl: FindingField
    ocsp: FindingField
    detail: Prose


@named_record
class AskStaple(Message):
    """Get an OCSP response for a chain of ours, to be stapled.  Answered by StapleTold; cached by the helper."""

    chain: Chain
    deadline_ms: U32


@named_record
class StapleTold(Message):
    """A response that says good, and until when it may be used (0: there is none)."""

    response: Annotated[bytes, limits.OCSP_B]
    until_s: U64
    detail: Prose
