"""What is known of a remote and of its session, when it is to be judged.

A worker has looked into the remote's certificate and says what it shows (RemoteShown); all else is of the session
and of the databases.  Pins and revocations are only looked up if an expression asks about them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol

from tlspool_broker.trustdata import Pin, Revocations
from tlspool_broker.validation.expression import Value
from tlspool_common import limits
from tlspool_common.errors import Code, code_of
from tlspool_common.identity import Donai, best_name
from tlspool_common.messages import HandshakeDone, RemoteAuth, Side
from tlspool_common.messages_judging import Finding, RemoteShown, RevocationTold
from tlspool_common.record import record

_FAULTS = frozenset(
    {
        Code.OK,
        Code.CHAIN_UNTRUSTED,
        Code.SELF_SIGNED,
        Code.EXPIRED,
        Code.NOT_YET_VALID,
        Code.NAME_MISMATCH,
        Code.WRONG_PURPOSE,
        Code.CHAIN_INVALID,
        Code.REVOKED,
        Code.KEY_WEAK,
    }
)
"""What a worker may say of a chain."""


class Stored(Protocol):
    """What the databases know about remotes.  Each may raise PoolError."""

    def pins(self, remote: str) -> Sequence[Pin]:
        """Return what is pinned for a remote identity, and what is pinned for whoever shows it."""

    def revocations(self, issuer_key: bytes) -> Revocations | None:
        """Return what is stored about the certificates of an issuer, by its key identifier."""


class _Empty:
    """Databases in which nothing is pinned or revoked."""

    def pins(self, remote: str) -> Sequence[Pin]:
        return ()

    def revocations(self, issuer_key: bytes) -> Revocations | None:
        return None


NOTHING_STORED: Stored = _Empty()


@record
class Online:
    """What the network, or files that it left, said about revocation of the chain."""

    crl: Finding = Finding.NONE
    ocsp: Finding = Finding.NONE
    detail: str = ""


@record
class Context:
    """The session that a remote belongs to.

    Attributes:
        expected: whom the remote must prove to be; None: the application did not say.
        domain_represents_user: the application lets a domain speak for its users.
        service: the application's name for what it speaks, such as ``smtp``.
        local_sides: roles that the credential which we show may be used in, a bit set: 1 client, 2 server; 0: we
            show none.
        staple_wanted: we asked the server for an OCSP response.
        online: what was found; None: nobody has been asked yet.
    """

    side: Side
    remote_auth: RemoteAuth
    now_s: int
    expected: Donai | None = None
    domain_represents_user: bool = False
    service: str = ""
    local_sides: int = 0
    staple_wanted: bool = False
    stored: Stored = NOTHING_STORED
    online: Online | None = None


@record
class Facts:
    """Everything that predicates are about.

    Attributes:
        shown: the remote's credential; None: it showed none, or is not asked who it is.
        revoked: what says that something in the chain is revoked, '' nothing; None: nobody has looked yet.
    """

    context: Context
    shown: RemoteShown | None
    tls_version: int
    cipher: str
    group: str
    revoked: str | None = None

    @property
    def ignores(self) -> bool:
        """Whether the application does not want to know who the remote is."""
        return self.context.remote_auth is RemoteAuth.IGNORE

    @property
    def fault(self) -> Code:
        """The first fault of the chain, or OK; INTERNAL if that is none which a chain can have."""
        if self.shown is None:
            return Code.CERTIFICATE_MISSING
        code = code_of(self.shown.fault)
        return code if code in _FAULTS else Code.INTERNAL

    @property
    def remote(self) -> str:
        """Whom the remote is taken for: who is expected, else the most specific name that it shows; '' nobody."""
        if self.context.expected is not None:
            return str(self.context.expected)
        return best_name(self.shown.names) if self.shown is not None else ""

    def told(self, told: RevocationTold) -> Facts:
        """Return these facts with what was found online."""
        return self.with_online(Online(told.crl, told.ocsp, told.detail))

    def with_online(self, online: Online) -> Facts:
        """Return these facts with what was found online."""
        return dataclasses.replace(self, context=dataclasses.replace(self.context, online=online), revoked=None)

    def with_revoked(self, why: str) -> Facts:
        """Return these facts with what says that something in the chain is revoked; '' nothing does."""
        return Facts(self.context, self.shown, self.tls_version, self.cipher, self.group, why)

    def finished(self, done: HandshakeDone) -> Facts:
        """Return these facts with what only the end of the handshake tells."""
        return dataclasses.replace(self, tls_version=done.tls_version, cipher=done.cipher, group=done.group)


def from_shown(shown: RemoteShown, context: Context) -> Facts:
    """Return the facts about a remote that shows a credential."""
    asked = None if context.remote_auth is RemoteAuth.IGNORE else shown
    return Facts(context, asked, shown.tls_version, shown.cipher, shown.group)


def from_done(done: HandshakeDone, context: Context) -> Facts:
    """Return the facts about a remote that shows none."""
    return Facts(context, None, done.tls_version, done.cipher, done.group)


@record
class Answer:
    """The value of a predicate, and why; ``code`` is what to tell who is refused for it."""

    value: Value
    why: str
    code: Code = Code.VALIDATION_FAILED


NOTHING_SHOWN = RemoteShown(
    session_id=0,
    tls_version=0,
    cipher="",
    group="",
    fault=0,
    detail="",
    anchor_sha256=b"",
    self_signed=False,
    names=(),
    subject="",
    leaf_sha256=b"",
    spki_sha256=b"",
    not_after_s=0,
    strengths=(),
    usages=(),
    extensions=(),
    links=(),
    crl_urls=(),
    ocsp_urls=(),
    must_staple=False,
    stapled=Finding.NONE,
    stapled_detail="",
    chain=(),
)
"""A description in which nothing is said yet: for who knows only some of it."""

_BARE = tuple(field.name for field in dataclasses.fields(RemoteShown) if field.name != "chain")
_bare_values = attrgetter(*_BARE)


def without_chain(shown: RemoteShown) -> RemoteShown:
    """Return a description without the certificates, which are of no use once nobody is asked about them."""
    return RemoteShown(**dict(zip(_BARE, _bare_values(shown), strict=True)), chain=()) if shown.chain else shown


LONGER = f"the chain has {limits.CHAIN_CERTIFICATES} certificates or more, and not all of them are looked at"


def is_longer(shown: RemoteShown) -> bool:
    """Whether the chain may have certificates that nobody has described."""
    return max(len(shown.strengths), len(shown.links)) >= limits.CHAIN_CERTIFICATES
