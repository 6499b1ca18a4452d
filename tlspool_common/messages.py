"""THE border table: who may say what to whom, with how many descriptors, when.

Everything that is not in this table closes the channel it came over.  A channel is opened as one
``Border`` (an ordered pair of parties), and only the rows of that border exist on it.

* Requests have even codes; the answer of a request, if it has one, is the next odd code and carries the
  same exchange number.  A row whose ``answer`` is None is a statement: nothing comes back.
* ``fds`` is the exact number of descriptors that travel with the frame.
* ``first`` marks the one message that must open a channel, and that is allowed at no other time.
* ``once`` marks a message that is allowed a single time on a channel.

``PROTOCOL`` changes whenever this file changes the wire: tests/unit/test_messages.py holds a hash of the
table, so that it cannot change silently.  docs/messages.md is generated from it.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum, StrEnum
from typing import Annotated

from tlspool_common import limits
from tlspool_common.codec import U8, U16, U32, U64, Bits, Items
from tlspool_common.message import Message as Message
from tlspool_common.messages_judging import AskRevocation as AskRevocation
from tlspool_common.messages_judging import AskStaple as AskStaple
from tlspool_common.messages_judging import Finding as Finding
from tlspool_common.messages_judging import OnlineHello as OnlineHello
from tlspool_common.messages_judging import RemoteShown as RemoteShown
from tlspool_common.messages_judging import RevocationTold as RevocationTold
from tlspool_common.messages_judging import StapleTold as StapleTold
from tlspool_common.messages_judging import Verdict as Verdict
from tlspool_common.messages_radius import Access as Access
from tlspool_common.messages_radius import AccessTold as AccessTold
from tlspool_common.messages_radius import Account as Account
from tlspool_common.messages_radius import Accounted as Accounted
from tlspool_common.messages_radius import AccountSettled as AccountSettled
from tlspool_common.messages_radius import AskAccess as AskAccess
from tlspool_common.messages_radius import AskRadius as AskRadius
from tlspool_common.messages_radius import DynamicAsked as DynamicAsked
from tlspool_common.messages_radius import DynamicTold as DynamicTold
from tlspool_common.messages_radius import Purpose as Purpose
from tlspool_common.messages_radius import RadiusHello as RadiusHello
from tlspool_common.messages_radius import RadiusTold as RadiusTold
from tlspool_common.messages_radius import Status as Status
from tlspool_common.messages_rejoining import BrokerAway as BrokerAway
from tlspool_common.messages_rejoining import EndKept as EndKept
from tlspool_common.messages_rejoining import KeepChannel as KeepChannel
from tlspool_common.messages_rejoining import KeepRecord as KeepRecord
from tlspool_common.messages_rejoining import MasterLeaves as MasterLeaves
from tlspool_common.messages_rejoining import SessionHere as SessionHere
from tlspool_common.messages_rejoining import SessionsTold as SessionsTold
from tlspool_common.messages_rejoining import TellSessions as TellSessions
from tlspool_common.messages_rejoining import Welcome as Welcome
from tlspool_common.messages_relaying import AskedByRemote as AskedByRemote
from tlspool_common.messages_relaying import AskExport as AskExport
from tlspool_common.messages_relaying import AskFact as AskFact
from tlspool_common.messages_relaying import AskRemote as AskRemote
from tlspool_common.messages_relaying import AskTraffic as AskTraffic
from tlspool_common.messages_relaying import EndReason as EndReason
from tlspool_common.messages_relaying import EndSession as EndSession
from tlspool_common.messages_relaying import Fact as Fact
from tlspool_common.messages_relaying import RemoteTold as RemoteTold
from tlspool_common.messages_relaying import SessionEnded as SessionEnded
from tlspool_common.messages_relaying import Told as Told
from tlspool_common.messages_relaying import Traffic as Traffic
from tlspool_common.messages_token import TokenFind as TokenFind
from tlspool_common.messages_token import TokenFound as TokenFound
from tlspool_common.messages_token import TokenList as TokenList
from tlspool_common.messages_token import TokenListed as TokenListed
from tlspool_common.messages_token import TokenOpen as TokenOpen
from tlspool_common.messages_token import TokenOpened as TokenOpened
from tlspool_common.messages_token import TokenSign as TokenSign
from tlspool_common.messages_token import TokenSigned as TokenSigned
from tlspool_common.record import named_record, record

PROTOCOL = 2


class Party(StrEnum):
    """A process that speaks over a border."""

    BROKER = "broker"
    MASTER = "master"
    WORKER = "worker"
    KEYD = "keyd"
    TOKEN = "token"
    ONLINE = "online"
    RADIUS = "radius"


class Side(IntEnum):
    """Role of the local end in TLS (RFC 8446 section 1.1)."""

    CLIENT = 1
    SERVER = 2


class RemoteAuth(IntEnum):
    """What is asked of the remote end's credential."""

    REQUIRE = 1
    REQUEST = 2
    IGNORE = 3


class KeyKind(IntEnum):
    """Kind of a signing key; the provider's key reference uses the same numbers."""

    RSA = 1
    EC_P256 = 2
    EC_P384 = 3
    ED25519 = 4


DonaiText = Annotated[str, limits.IDENTITY_B]
CertificateDer = Annotated[bytes, limits.CERTIFICATE_B]
Chain = Annotated[tuple[bytes, ...], Items(limits.CHAIN_CERTIFICATES, limits.CERTIFICATE_B)]
GrantBytes = Annotated[bytes, limits.GRANT_B]
Names = Annotated[tuple[str, ...], Items(limits.IDENTITY_NAMES, limits.IDENTITY_NAME_B)]
SideField = Annotated[Side, Bits(8)]
RemoteAuthField = Annotated[RemoteAuth, Bits(8)]
KeyKindField = Annotated[KeyKind, Bits(8)]
Prose = Annotated[str, limits.PROSE_B]


def prose(text: str) -> str:
    """Cut an explanation to what a field of Prose takes."""
    return text.encode("utf-8", "replace")[: limits.PROSE_B].decode("utf-8", "ignore")


# --- worker master <-> broker ---------------------------------------------------------------------


@named_record
class MasterHello(Message):
    """The worker master introduces itself."""

    protocol: U16
    pid: U32


@named_record
class WorkerBorn(Message):
    """A worker was forked; the descriptor is the broker's end of its channel.

    ``again``: it was another broker's, and may have sessions.  ``protocol`` is what it speaks.
    """

    worker_id: U32
    pid: U32
    again: bool = False
    protocol: U16 = PROTOCOL


@named_record
class WorkerGone(Message):
    """A worker was reaped; ``status`` is a tlspool_worker exit code, or 128 + signal number."""

    worker_id: U32
    status: U16
    meaning: Prose


@named_record
class SpawnWorkers(Message):
    """Fork ``count`` more workers."""

    count: U16


@named_record
class RetireWorker(Message):
    """Take no more sessions to this worker: it ends after its last one (at once when ``kill``)."""

    worker_id: U32
    kill: bool


# --- keyd <-> broker ------------------------------------------------------------------------------


@named_record
class KeydHello(Message):
    """The key daemon introduces itself and hands over the secret that seals grants."""

    protocol: U16
    pid: U32
    grant_secret: Annotated[bytes, 32] = field(repr=False)


@named_record
class KeyChannel(Message):
    """Serve this worker over the descriptor; forget an older channel of the same worker."""

    worker_id: U32


@named_record
class KeyQuestion(Message):
    """Does this key exist and can it be used?  Logs in when needed, signs nothing."""

    uri: Annotated[str, limits.KEY_URI_B]


@named_record
class KeyAnswer(Message):
    """``code`` is 0, or a stable code of tlspool_common.errors; ``spki`` may be empty if unknown."""

    code: U16
    detail: Prose
    spki: Annotated[bytes, limits.SPKI_B]


@named_record
class PinService(Message):
    """A program that asks people for PINs has registered at the application socket; the descriptor is its connection.

    What it said is in here, but for texts, which a registration has no use for.  From now on it speaks with keyd.
    """

    reqid: U16
    flags: U32
    timeout_us: U32


# --- worker <-> keyd ------------------------------------------------------------------------------


@named_record
class SignHandshake(Message):
    """Ask for a signature over TLS handshake content, never over a digest.

    The descriptor is one end of a fresh SEQPACKET pair; ``Signed`` comes back over it, so that threads
    and forked workers need no lock.  Written by provider.c.
    """

    grant: GrantBytes
    scheme: U16  # SignatureScheme, RFC 8446 section 4.2.3
    content: Annotated[bytes, limits.SIGN_CONTENT_B]


@named_record
class Signed(Message):
    """The signature, as it goes on the wire of TLS; or a non-zero stable code and no signature."""

    code: U16
    signature: Annotated[bytes, limits.SIGNATURE_B]


# --- broker <-> worker ----------------------------------------------------------------------------


@named_record
class UseKeyChannel(Message):
    """The descriptor is the worker's way to keyd from now on."""

    worker_id: U32


@named_record
class TrustBegin(Message):
    """A new trust generation follows; the worker forgets generations no session uses."""

    generation: U64


@named_record
class TrustAnchor(Message):
    """One anchor of a generation; ``for_sides`` is a bit set: 1 local clients, 2 local servers."""

    generation: U64
    for_sides: U8
    certificate: CertificateDer


@named_record
class WorkerOwner(Message):
    """Whose sessions this worker has, for its process title; by word of the kernel and of systemd, not of a remote."""

    owner: Annotated[str, limits.OWNER_B]


@named_record
class StartSession(Message):
    """Shake hands over the descriptor.  What the worker may do is all in here and in UseCredential."""

    session_id: U64
    side: SideField
    remote_auth: RemoteAuthField
    trust_generation: U64
    tls_min: U16  # ProtocolVersion: 0x0303, 0x0304
    tls_max: U16
    groups: Annotated[str, limits.POLICY_TEXT_B]  # OpenSSL group list; empty: the library's default
    ciphers_tls12: Annotated[str, limits.POLICY_TEXT_B]
    ciphersuites_tls13: Annotated[str, limits.POLICY_TEXT_B]
    sigalgs: Annotated[str, limits.POLICY_TEXT_B]
    alpn: Annotated[bytes, limits.ALPN_B]  # ProtocolNameList body: (length octet, name)*
    sni: Annotated[str, limits.SNI_B]  # client: name to send; empty: none
    remote_name: DonaiText  # DoNAI the remote must prove; empty: any that verifies
    domain_represents_user: bool
    peer: bool = False  # either role: a client until the remote's ClientHello says otherwise (ClientHelloSeen)
    listen_ms: U16 = 0  # peer: how long the remote may begin, before we do
    asks: bool = False  # describe what the remote shows (RemoteShown), and let the broker decide on it (Verdict)
    tells_chain: bool = False  # with certificates, for who has to ask the network about them
    wants_staple: bool = False  # client: ask the server for an OCSP response (RFC 6066 section 8)
    names_anchors: bool = True  # server: say in its CertificateRequest whom it trusts (RFC 8446 section 4.2.4)


@named_record
class ClientHelloSeen(Message):
    """Server side: who are we?  Names as sent by the remote, not yet trusted in any way.

    Of a peer it says that we are the server, and takes back the credentials that the client was given.
    """

    session_id: U64
    sni: Annotated[str, limits.SNI_B]
    alpn: Annotated[bytes, limits.ALPN_B]


@named_record
class UseCredential(Message):
    """One credential for this session: leaf first, then its issuers; a grant for one signature.

    Sent before ``Proceed``, once per kind of key.
    """

    session_id: U64
    key_kind: KeyKindField
    chain: Chain
    grant: GrantBytes
    staple: Annotated[bytes, limits.OCSP_B] = b""  # server: the leaf's OCSP response, for clients that ask


@named_record
class Proceed(Message):
    """Go on with the handshake with the credentials given so far (a client may have none).

    A server may turn out to be under another policy than it was started with, by the name that its client has asked
    for.  Then all of what follows is in here, in place of what StartSession has said; ``tls_min`` 0: as started.
    """

    session_id: U64
    tls_min: U16 = 0
    tls_max: U16 = 0
    groups: Annotated[str, limits.POLICY_TEXT_B] = ""
    ciphers_tls12: Annotated[str, limits.POLICY_TEXT_B] = ""
    ciphersuites_tls13: Annotated[str, limits.POLICY_TEXT_B] = ""
    sigalgs: Annotated[str, limits.POLICY_TEXT_B] = ""
    names_anchors: bool = False


@named_record
class HandshakeDone(Message):
    """Facts of a finished handshake.  The handshake is over on the wire; the application still waits."""

    session_id: U64
    tls_version: U16
    cipher: Annotated[str, 64]
    group: Annotated[str, 64]
    alpn: Annotated[bytes, 255]
    sni: Annotated[str, limits.SNI_B]
    remote_verified: bool
    remote_names: Names  # "dns:NAME" or "email:NAME", each matched against nothing yet
    remote_subject: Annotated[str, limits.SUBJECT_B]
    remote_sha256: Annotated[bytes, 32]  # of the leaf certificate; empty when there is none


@named_record
class HandshakeFailed(Message):
    """The handshake did not succeed; the socket is closed.  ``detail`` is for log and operator."""

    session_id: U64
    code: U16
    alert: U8  # AlertDescription sent or received; 255: none
    detail: Prose


@named_record
class PlainConnected(Message):
    """The descriptor is the plaintext end: start to relay."""

    session_id: U64


@record
class Row:
    """One line of the table."""

    code: int
    message: type[Message]
    sender: Party
    receiver: Party
    fds: int = 0
    answer: type[Message] | None = None
    first: bool = False
    once: bool = False


_B, _M, _W, _K, _T, _O = Party.BROKER, Party.MASTER, Party.WORKER, Party.KEYD, Party.TOKEN, Party.ONLINE
_R = Party.RADIUS

TABLE: tuple[Row, ...] = (
    Row(0x10, MasterHello, _M, _B, first=True),
    Row(0x12, WorkerBorn, _M, _B, fds=1),
    Row(0x14, WorkerGone, _M, _B),
    Row(0x16, SpawnWorkers, _B, _M),
    Row(0x18, RetireWorker, _B, _M),
    Row(0x1A, Welcome, _B, _M, fds=1, once=True),
    Row(0x1C, KeepChannel, _B, _M, fds=1),
    Row(0x1E, MasterLeaves, _M, _B, once=True),
    Row(0x20, KeydHello, _K, _B, first=True),
    Row(0x22, KeyChannel, _B, _K, fds=1),
    Row(0x24, KeyQuestion, _B, _K, answer=KeyAnswer),
    Row(0x25, KeyAnswer, _K, _B),
    Row(0x26, PinService, _B, _K, fds=1),
    Row(0x30, SignHandshake, _W, _K, fds=1, answer=Signed),
    Row(0x31, Signed, _K, _W),
    Row(0x40, TokenOpen, _K, _T, answer=TokenOpened, first=True),
    Row(0x41, TokenOpened, _T, _K, once=True),
    Row(0x42, TokenSign, _K, _T, answer=TokenSigned),
    Row(0x43, TokenSigned, _T, _K),
    Row(0x44, TokenFind, _K, _T, answer=TokenFound),
    Row(0x45, TokenFound, _T, _K),
    Row(0x46, TokenList, _K, _T, answer=TokenListed),
    Row(0x47, TokenListed, _T, _K),
    Row(0x50, UseKeyChannel, _B, _W, fds=1),
    Row(0x52, TrustBegin, _B, _W),
    Row(0x54, TrustAnchor, _B, _W),
    Row(0x56, WorkerOwner, _B, _W, once=True),
    Row(0x60, StartSession, _B, _W, fds=1),
    Row(0x62, ClientHelloSeen, _W, _B),
    Row(0x64, UseCredential, _B, _W),
    Row(0x66, Proceed, _B, _W),
    Row(0x68, HandshakeDone, _W, _B),
    Row(0x6A, HandshakeFailed, _W, _B),
    Row(0x6C, PlainConnected, _B, _W, fds=1),
    Row(0x6E, EndSession, _B, _W),
    Row(0x70, SessionEnded, _W, _B),
    Row(0x72, AskExport, _B, _W),
    Row(0x74, AskFact, _B, _W),
    Row(0x76, Told, _W, _B),
    Row(0x78, AskRemote, _B, _W),
    Row(0x7A, RemoteTold, _W, _B),
    Row(0x7C, AskedByRemote, _W, _B),
    Row(0x7E, RemoteShown, _W, _B),
    Row(0x80, Verdict, _B, _W),
    Row(0x82, KeepRecord, _B, _W),
    Row(0x84, BrokerAway, _B, _W),
    Row(0x86, TellSessions, _B, _W),
    Row(0x88, SessionHere, _W, _B),
    Row(0x8A, SessionsTold, _W, _B),
    Row(0x8C, AskTraffic, _B, _W),
    Row(0x8E, Traffic, _W, _B),
    Row(0x9E, EndKept, _B, _W),
    Row(0x90, OnlineHello, _O, _B, first=True),
    Row(0x92, AskRevocation, _B, _O, answer=RevocationTold),
    Row(0x93, RevocationTold, _O, _B),
    Row(0x94, AskStaple, _B, _O, answer=StapleTold),
    Row(0x95, StapleTold, _O, _B),
    Row(0xA0, RadiusHello, _R, _B, first=True),
    Row(0xA2, AskAccess, _B, _R, answer=AccessTold),
    Row(0xA3, AccessTold, _R, _B),
    Row(0xA4, Account, _B, _R, answer=Accounted),
    Row(0xA5, Accounted, _R, _B),
    Row(0xA6, AccountSettled, _B, _R),
    Row(0xA8, AskRadius, _B, _R, answer=RadiusTold),
    Row(0xA9, RadiusTold, _R, _B),
    Row(0xAA, DynamicAsked, _R, _B, answer=DynamicTold),
    Row(0xAB, DynamicTold, _B, _R),
)

BY_CODE = {row.code: row for row in TABLE}
BY_MESSAGE = {row.message: row for row in TABLE}
