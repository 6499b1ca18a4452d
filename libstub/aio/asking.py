"""What a program can ask of a session of its event loop: the coroutines to the methods of TlsSession.

They take the TlsSession, which is ``get_extra_info("tlspool")`` of a writer or a transport.  Their arguments, results
and errors are those of the methods.
"""

from __future__ import annotations

from libstub import questions
from libstub.aio.pool import AsyncPool, AsyncPoolOrPath, find_pool
from libstub.errors import Misuse, NotAvailable, ProtocolError, RemoteUnverified
from libstub.questions import Binding, Part
from libstub.session import TlsSession
from libstub.starttls import RemoteAuth, make_request, patience_of
from tlspool_common.appwire import BadPayload, Cmd, Control, Details, Flag
from tlspool_common.errors import Code


async def export_keying_material(tls: TlsSession, label: str, context: bytes | None, length: int) -> bytes:
    """Return bytes that the remote can have too, by the same arguments, and nobody else."""
    return await _pool_of(tls).ask(questions.export(tls.ctlkey, label, context, length))


async def channel_binding(tls: TlsSession, kind: Binding = "tls-exporter") -> bytes:
    """Return bytes that are the same at both ends of this session, and of no other."""
    return await _pool_of(tls).ask(questions.channel_binding(tls.ctlkey, kind))


async def distinguished_name(tls: TlsSession, part: Part = "subject", *, local: bool = False) -> bytes:
    """Return the subject or the issuer of the remote's certificate, or of ours, as DER."""
    return await _pool_of(tls).ask(questions.distinguished(tls.ctlkey, part, local))


async def has_general_name(tls: TlsSession, name: bytes, *, local: bool = False) -> bool:
    """Tell whether a DER GeneralName is in a certificate's subjectAltName."""
    try:
        await _pool_of(tls).ask(questions.general_name(tls.ctlkey, name, local))
    except NotAvailable as error:
        if error.code == Code.INFO_NOT_FOUND:
            return False
        raise
    return True


async def reauthenticate(
    tls: TlsSession,
    remoteid: str = "",
    *,
    remote_auth: RemoteAuth = "require",
    timeout_s: float | None = None,
    domain_represents_user: bool = False,
) -> str:
    """Ask the client of this server once more who it is, and return that; the session goes on meanwhile."""
    flags = Flag.DOMAIN_REPRESENTS_USER if domain_represents_user else 0
    request, _ = make_request(flags, "", remoteid, timeout_s=timeout_s, remote_auth=remote_auth)
    pool = _pool_of(tls)
    try:
        told = await pool.ask(questions.again(request, tls.ctlkey), patience_of(timeout_s))
    except RemoteUnverified:
        tls._proved("", None)
        raise
    try:
        details = Details.from_payload_untrusted(await pool.command(Cmd.LOCAL_DETAILS, tls.ctlkey, Cmd.LOCAL_DETAILS))
    except BadPayload as error:
        raise ProtocolError(f"the pool sent a malformed frame: {error}") from None
    tls._proved(told.remoteid, details)
    return told.remoteid


async def detach(tls: TlsSession) -> None:
    """Let no connection control the session, so that it does not end with this program."""
    await _pool_of(tls).command(Cmd.CONTROL_DETACH, Control(tls.ctlkey).to_payload(), Cmd.SUCCESS)


async def reattach(tls: TlsSession, pool: AsyncPoolOrPath = None) -> None:
    """Control the session from this event loop, whichever loop or Pool it was made in."""
    chosen = find_pool(pool)
    await chosen.command(Cmd.CONTROL_REATTACH, Control(tls.ctlkey).to_payload(), Cmd.SUCCESS)
    tls.pool = chosen


def _pool_of(tls: TlsSession) -> AsyncPool:
    if not isinstance(tls.pool, AsyncPool):
        raise Misuse("this session is not of an event loop: use its methods")
    return tls.pool
