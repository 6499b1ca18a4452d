"""The options of ``starttls_client`` and ``starttls_server`` as types, for functions that pass them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from libstub.holding import OnLocalid
from libstub.starttls import RemoteAuth


class TlsOptions(TypedDict, total=False):
    """What both ends may say; ``starttls_client`` explains each."""

    service: str
    timeout_s: float | None
    alpn: Sequence[str]
    remote_auth: RemoteAuth
    domain_represents_user: bool
    fork: bool
    detach: bool
    on_localid: OnLocalid | None


class ClientOptions(TlsOptions, total=False):
    """What a client may say."""

    localid: str
    without_sni: bool


class PeerOptions(TlsOptions, total=False):
    """What one of two equals may say."""

    without_sni: bool


class ServerOptions(TlsOptions, total=False):
    """What a server may say."""

    remoteid: str


class EitherOptions(TlsOptions, total=False):
    """What may be said where the role is an argument."""

    localid: str
    remoteid: str
    without_sni: bool
