"""What a session would be asked about with, without one: for operators who test their rules and servers."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tlspool_broker.admin.fields import bad, number_of, text
from tlspool_broker.core import BrokerCore
from tlspool_broker.events import Caller, SessionId
from tlspool_broker.policy import Plan
from tlspool_broker.radius_grant import Admission
from tlspool_broker.session import Session, State
from tlspool_common.appwire import Flag, Starttls
from tlspool_common.control import PEER_UID
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import RemoteAuth, Side

_FLAGS = {
    Side.CLIENT: Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER,
    Side.SERVER: Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT,
}
_TEXT_B = 127
"""As in a request of an application."""


def rehearse_untrusted(core: BrokerCore, fields: Mapping[str, object]) -> Admission | None:
    """Return what a session with this ``remoteid``, ``localid``, ``service``, ``side``, ``uid`` and ``unit`` would get.

    Without ``uid`` it is the user who asks.

    Raises:
        PoolError: FIELD_MALFORMED, IDENTITY_MALFORMED; and what a session would be refused with.
    """
    side_word = text(fields, "side", None, "server")
    if side_word not in ("client", "server"):
        raise bad("side must be client or server")
    side = Side[side_word.upper()]
    local = _text(fields, "localid")
    localid = parse_untrusted(local) if local else None
    remoteid = str(parse_untrusted(_text(fields, "remoteid"))) if fields.get("remoteid") else ""
    uid = number_of(fields, "uid", default=fields.get(PEER_UID, os.getuid()))
    session = Session(
        session_id=SessionId(0),
        caller=Caller(uid=uid, gid=-1, pid=0, unit=_text(fields, "unit"), command="a rehearsal"),
        request=Starttls(flags=int(_FLAGS[side]), localid=local, remoteid=remoteid, service=_text(fields, "service")),
        plan=Plan(
            side=side,
            remote_auth=RemoteAuth.REQUIRE,
            localid=localid,
            expected=None,
            sni="",
            credentials=(),
            domain_represents_user=False,
        ),
        records=core.snapshots.take(),
        exchange=None,
        crypt=None,
        alpn=b"",
        as_server=None,
        started_ms=0,
        deadline_ms=None,
        state=State.EXPECT_HANDSHAKE,
        remoteid=remoteid,
        localid_was=str(localid or ""),
    )
    return core.radius_policy.admission(session)


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None or value == "":
        return ""
    found = text(fields, name)
    if not found.isprintable() or len(found.encode()) > _TEXT_B:
        raise bad(f"{name} must be at most {_TEXT_B} bytes of text")
    return found
