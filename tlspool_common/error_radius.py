"""What is said of the codes of RADIUS and accounting: rows of the table (error_table.py)."""

from __future__ import annotations

from tlspool_common.error_codes import Code, ComErr
from tlspool_common.error_entry import Entry

_C = ComErr
RADIUS: dict[Code, Entry] = {
    Code.RADIUS_REJECTED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the RADIUS server refuses the remote",
        "look at the server's log for User-Name and NAS-Identifier; tlspool radius test asks it again",
    ),
    Code.RADIUS_UNANSWERED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "no RADIUS server has answered, and the rule refuses then",
        "tlspool radius status shows each server; the secret may be wrong, or answers lack a Message-Authenticator",
    ),
    Code.RADIUS_UNASKED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the RADIUS server could not be asked",
        "look at the detail: an attribute does not fit, or the helper cannot be started",
    ),
    Code.RADIUS_ANONYMOUS: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the remote has no identity that the RADIUS server could be asked about",
        "have the remote show a certificate, or write anonymous=accept into the radius rule",
    ),
    Code.RADIUS_UNUSED: Entry(
        _C.COMMAND_NOTIMPL,
        "there is no RADIUS server for that",
        "name it in radius_authn, radius_authz or radius_acct",
    ),
    Code.ACCOUNT_UNKEPT: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the accounting record cannot be kept",
        "make room in radius_spool_dir, and look for radius.spool in the log",
    ),
    Code.ACCOUNT_FOREIGN: Entry(
        _C.CTLKEY_NOT_YOURS,
        "this program may not account for, or ask about, that identity",
        "name a remote identity of a live session of the same user, or allow it by an account rule",
    ),
    Code.ACCOUNT_UNKNOWN: Entry(
        _C.CTLKEY_NOT_FOUND, "no accounting of that kind and instance has been started", "start it first"
    ),
    Code.ACCOUNT_EXISTS: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "accounting of that kind and instance has been started already",
        "end it first, or use another instance",
    ),
    Code.ACCOUNT_SPOOL_FULL: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "too many accounting records wait for their server",
        "start the server, or raise radius_spool_records; tlspool radius spool shows them",
    ),
}
