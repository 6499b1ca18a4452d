"""What a program can ask of its session: keying material, channel bindings, certificates, and the remote once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from libstub import questions
from libstub.errors import NotAvailable, ProtocolError, RemoteUnverified
from libstub.questions import Binding, Part, Question
from tlspool_common.appwire import BadPayload, Cmd, Details, Flag
from tlspool_common.errors import Code

if TYPE_CHECKING:
    from libstub.pool import Pool
    from libstub.starttls import RemoteAuth

T = TypeVar("T")


class Asking:
    """The questions of a TlsSession.  They wait for the pool, which answers at once, but for ``reauthenticate``.

    All of them raise NotInControl when the session is over, or is not controlled over this program's connection to
    the pool, and other PoolErrors.
    """

    __slots__ = ()

    ctlkey: bytes

    def _blocking_pool(self) -> Pool:
        raise NotImplementedError

    def _proved(self, remoteid: str, details: Details | None) -> None:
        """Take note of who the remote is from now on."""
        raise NotImplementedError

    def _ask(self, question: Question[T]) -> T:
        return question.answer(self._blocking_pool().command(question.cmd, question.payload, question.cmd))

    def export_keying_material(self, label: str, context: bytes | None, length: int) -> bytes:
        """Return bytes that the remote can have too, by the same arguments, and nobody else (RFC 5705, RFC 8446).

        Args:
            label: what for: a label of the IANA registry, or 'EXPERIMENTAL-...'.
            context: also goes in; None is not the same as b'' in TLS 1.2.
            length: at most 350 bytes.

        Raises:
            NotAvailable: the label is not allowed, or the session exports nothing.
        """
        return self._ask(questions.export(self.ctlkey, label, context, length))

    def channel_binding(self, kind: Binding = "tls-exporter") -> bytes:
        """Return bytes that are the same at both ends of this session, and of no other.

        Args:
            kind: 'tls-exporter' (RFC 9266), 'tls-server-end-point' or 'tls-unique' (RFC 5929; TLS 1.2 only).

        Raises:
            NotAvailable: this session has no binding of that kind.
        """
        return self._ask(questions.channel_binding(self.ctlkey, kind))

    def distinguished_name(self, part: Part = "subject", *, local: bool = False) -> bytes:
        """Return the subject or the issuer of the remote's certificate, or of ours, as DER.

        It is what the remote showed; ``verified`` says whether that counts.

        Raises:
            NotAvailable: there is no certificate, or the name has more than 334 bytes.
        """
        return self._ask(questions.distinguished(self.ctlkey, part, local))

    def has_general_name(self, name: bytes, *, local: bool = False) -> bool:
        """Tell whether a DER GeneralName, tag and length included, is in a certificate's subjectAltName."""
        try:
            self._ask(questions.general_name(self.ctlkey, name, local))
        except NotAvailable as error:
            if error.code == Code.INFO_NOT_FOUND:
                return False
            raise
        return True

    def reauthenticate(
        self,
        remoteid: str = "",
        *,
        remote_auth: RemoteAuth = "require",
        timeout_s: float | None = None,
        domain_represents_user: bool = False,
    ) -> str:
        """Ask the client of this server once more who it is, and return that; the session goes on meanwhile.

        TLS 1.3 only, and only if the client has allowed it.  ``remoteid``, ``verified`` and ``subject`` are renewed;
        a client that does not prove who it is, is nobody from then on.

        Args:
            remoteid: whom it must prove to be; '' takes anybody who verifies.
            remote_auth: 'require', or 'request', which lets it have no certificate.
            timeout_s: how long it may take; None is the pool's setting for handshakes.

        Raises:
            NotAvailable: this session cannot be asked, or not now.
            Timeout: it has not answered.  It still may, and cannot be asked again before.
            RemoteUnverified: it has not proved who it is.
        """
        from libstub.starttls import make_request, patience_of  # it imports sessions itself

        flags = Flag.DOMAIN_REPRESENTS_USER if domain_represents_user else 0
        request, _ = make_request(flags, "", remoteid, timeout_s=timeout_s, remote_auth=remote_auth)
        question = questions.again(request, self.ctlkey)
        pool = self._blocking_pool()
        try:
            reply = pool.command(question.cmd, question.payload, question.cmd, patience_s=patience_of(timeout_s))
        except RemoteUnverified:
            self._proved("", None)
            raise
        told = question.answer(reply)
        try:
            details = Details.from_payload_untrusted(pool.command(Cmd.LOCAL_DETAILS, self.ctlkey, Cmd.LOCAL_DETAILS))
        except BadPayload as error:
            raise ProtocolError(f"the pool sent a malformed frame: {error}") from None
        self._proved(told.remoteid, details)
        return told.remoteid
