"""A certificate in a file, described as a worker describes what a remote shows: by a handshake that leads nowhere."""

from __future__ import annotations

import argparse
import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from tlspool_admin import files
from tlspool_admin.doctor.credentials import is_anchor
from tlspool_admin.options import ask_broker
from tlspool_admin.table import objects, texts
from tlspool_broker.explain import shown_json
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side
from tlspool_worker.rehearsal import rehearse_untrusted

_VERSIONS = {"": 0, "1.2": 0x0303, "1.3": 0x0304}


def described(args: argparse.Namespace, path: Path, side: str) -> dict[str, object]:
    """Return what a worker would tell the broker, as the broker's dry run reads it.

    Raises:
        PoolError: RECORD_MALFORMED, the file holds no certificate that TLS could carry; or of ``ask_broker``.
        OSError: the file cannot be read, or the broker does not answer.
    """
    chain = files.read(path, files.password_of(None)).certificates
    if not chain:
        raise PoolError(Code.RECORD_MALFORMED, f"{path} holds no certificate")
    try:
        shown = rehearse_untrusted(chain, anchors(args, side), Side[side.upper()])
    except ValueError as error:
        raise PoolError(Code.RECORD_MALFORMED, f"{path}: {error}") from None
    handshake = {"tls_version": _VERSIONS[args.tls], "cipher": args.cipher, "group": args.group}
    return {**shown_json(shown), **handshake}


def anchors(args: argparse.Namespace, side: str) -> list[bytes]:
    """Return the anchors that count for chains that are shown to a side."""
    found = []
    for entry in objects(ask_broker(args, "trust.list").get("keys")):
        if any(_counts(record, side) for record in objects(entry.get("records"))):
            records = objects(ask_broker(args, "trust.get", key=entry.get("key")).get("records"))
            found += [der for record in records if _counts(record, side) and (der := _der(record.get("data")))]
    return found


def _counts(record: Mapping[str, object], side: str) -> bool:
    return is_anchor(record) and side in texts(record.get("flags")) and record.get("valexp") != "0"


def _der(data: object) -> bytes:
    try:
        return base64.b64decode(str(data), validate=True)
    except (binascii.Error, ValueError):
        return b""
