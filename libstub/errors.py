"""What can go wrong with a session, as exceptions that a program can tell apart.

    PoolError
    +-- Misuse               the program asked for something impossible             codes 1xx
    |   +-- NotAvailable     the session has no such thing, or not now               124-126, 128, 129
    |   +-- NotInControl     the control key gives no control of a session           115, 120-122, 127, 211
    +-- Refused              policy or quota of the pool                             2xx
    +-- HandshakeFailed      the remote, or the way to it                            3xx
    |   +-- Timeout          it took too long                                        307
    |   +-- RemoteUnverified the remote is not who it should be                      4xx
    +-- KeyTrouble           our own key or its token                                5xx
    +-- PoolUnavailable      no pool there, or it is not able                        6xx
    +-- PoolMisconfigured    its operator must act                                   7xx
    +-- AccessRejected       a RADIUS server refuses it                             801  (a kind of Refused)
    +-- PoolInternal         a bug of the pool, or an error nobody knows             9xx
    +-- ProtocolError        what came over the socket is not protocol V2

The class is derived from the stable code that stands in brackets at the start of the pool's text
(docs/errors.md lists them), and for pools that write none from the com_err number of protocol V2.
"""

from __future__ import annotations

import errno
import re

from tlspool_common import errors as table
from tlspool_common.appwire import ErrorReply
from tlspool_common.errors import ComErr


class PoolError(Exception):
    """Why there is no session.  Abstract: what is raised is one of the classes below it.

    Attributes:
        text: what happened, in words.
        code: the stable code; 0 when the pool gave none, or was not asked.
        tlserrno: the number of protocol V2; 0 when the pool was not asked.
        remedy: what to do about it, if the code is known; else ''.
    """

    def __init__(self, text: str, code: int = 0, tlserrno: int = 0) -> None:
        if type(self) is PoolError:
            raise TypeError("PoolError is abstract: raise one of its subclasses")
        super().__init__(text, code, tlserrno)
        self.text = text
        self.code = code
        self.tlserrno = tlserrno

    @property
    def remedy(self) -> str:
        """What to do about it, if the code is known; else ''."""
        try:
            return table.TABLE[table.Code(self.code)].remedy
        except (ValueError, KeyError):
            return ""

    def __str__(self) -> str:
        remedy = self.remedy
        return self.text if not remedy or remedy in self.text else f"{self.text}; {remedy}"


class Misuse(PoolError):
    """The program asked for something impossible."""


class NotAvailable(Misuse):
    """The session has no such thing to tell, or cannot do that, or not now."""


class NotInControl(Misuse):
    """The control key gives no control: no such session, or it is attached to another connection, or to none."""


class Refused(PoolError):
    """Policy or a quota of the pool forbids it."""


class AccessRejected(Refused):
    """A RADIUS server refuses the remote, or whom the program asks about; what it says for people is in the text."""


class HandshakeFailed(PoolError):
    """The handshake with the remote failed."""


class Timeout(HandshakeFailed):
    """It took longer than it may."""


class RemoteUnverified(HandshakeFailed):
    """The remote did not prove to be who it should be."""


class KeyTrouble(PoolError):
    """Our private key could not be used: token, PIN or key."""


class PoolUnavailable(PoolError):
    """There is no pool at the socket, or it cannot serve now; later it may."""


class PoolMisconfigured(PoolError):
    """The configuration of the pool is wrong; its operator must act."""


class PoolInternal(PoolError):
    """A bug of the pool, or an error that this library does not know."""


class ProtocolError(PoolError):
    """What came over the socket is not what a pool says."""


_BY_HUNDRED: dict[int, type[PoolError]] = {
    1: Misuse,
    2: Refused,
    3: HandshakeFailed,
    4: RemoteUnverified,
    5: KeyTrouble,
    6: PoolUnavailable,
    7: PoolMisconfigured,
    8: PoolUnavailable,
    9: PoolInternal,
}

_BY_COM_ERR: dict[ComErr, type[PoolError]] = {
    ComErr.OUT_OF_MEMORY: PoolUnavailable,
    ComErr.ENTANGLED_THREADS: PoolUnavailable,
    ComErr.CLIENT_DISCONNECT: PoolUnavailable,
    ComErr.FACILITY_STARTTLS: Refused,
    ComErr.FACILITY_STARTGSS: Refused,
    ComErr.FACILITY_STARTSSH: Refused,
    ComErr.RENOGIATE_NOT_INTERRUPTABLE: HandshakeFailed,
    ComErr.RENOGIATE_WOULD_BE_INSECURE: HandshakeFailed,
    ComErr.CONNECTION_HANDLER_SETUP: PoolUnavailable,
    ComErr.CONNECTION_DRIVER_SETUP: Refused,
    ComErr.STIRRED_NOT_SHAKEN: HandshakeFailed,
    ComErr.PRNG_UNAVAILABLE: Refused,
    ComErr.LIDENTRY_NOT_VACANT: Refused,
    ComErr.PINENTRY_NOT_VACANT: Refused,
    ComErr.INFO_NOT_FOUND: Refused,
}
"""The other numbers of the table are Misuse."""

_CONTROL = frozenset(
    {
        table.Code.CTLKEY_UNKNOWN,
        table.Code.CTLKEY_DETACHED,
        table.Code.CTLKEY_ATTACHED,
        table.Code.CTLKEY_NOT_YOURS,
        table.Code.CTLKEY_FOREIGN,
        table.Code.REAUTH_NOT_FOUND,
    }
)
_UNAVAILABLE = frozenset(
    {
        table.Code.EXPORT_UNAVAILABLE,
        table.Code.INFOKIND_UNKNOWN,
        table.Code.INFO_NOT_FOUND,
        table.Code.REAUTH_BUSY,
        table.Code.REAUTH_INSECURE,
    }
)
_OF_RADIUS: dict[int, type[PoolError]] = {
    table.Code.RADIUS_REJECTED: AccessRejected,
    table.Code.RADIUS_ANONYMOUS: RemoteUnverified,
    table.Code.RADIUS_UNUSED: NotAvailable,
    table.Code.ACCOUNT_FOREIGN: Refused,
    table.Code.ACCOUNT_UNKNOWN: Misuse,
    table.Code.ACCOUNT_EXISTS: Misuse,
}
"""The others of that hundred may go away by themselves."""

_CONTROL_COM_ERR = frozenset(
    {ComErr.CTLKEY_NOT_FOUND, ComErr.CTLKEY_NOT_YOURS, ComErr.CTLKEY_DETACHED, ComErr.CTLKEY_ATTACHED}
)

_COM_ERR_NAMES = {com_err.number: com_err.name for com_err in ComErr}
_CODE = re.compile(r"\[([1-9][0-9]{2})\](?: |$)")


def _class_of(code: int, tlserrno: int) -> type[PoolError]:
    if code == table.Code.HANDSHAKE_TIMEOUT:
        return Timeout
    if code in _CONTROL or (not code and tlserrno - table.COM_ERR_BASE in _CONTROL_COM_ERR):
        return NotInControl
    if code in _UNAVAILABLE:
        return NotAvailable
    if code in _OF_RADIUS:
        return _OF_RADIUS[code]
    if code // 100 in _BY_HUNDRED:
        return _BY_HUNDRED[code // 100]
    try:
        return _BY_COM_ERR.get(ComErr(tlserrno - table.COM_ERR_BASE), Misuse)
    except ValueError:
        return Timeout if tlserrno == errno.ETIMEDOUT else PoolInternal


def from_reply_untrusted(reply: ErrorReply) -> PoolError:
    """Make the exception for an ERROR of the pool; anything in it gives one."""
    found = _CODE.match(reply.message)
    code = int(found.group(1)) if found else 0
    text = reply.message.strip()
    if not text:
        text = f"the pool says {_COM_ERR_NAMES.get(reply.tlserrno, reply.tlserrno)}"
    return _class_of(code, reply.tlserrno)(text, code, reply.tlserrno)
