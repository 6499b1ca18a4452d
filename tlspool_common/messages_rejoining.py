"""Border messages for what outlives a daemon: workers that a broker finds, and what they tell it of their sessions.

A part of the border table (messages.py).  tlspool_broker/rejoin.py has the story.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from tlspool_common import limits
from tlspool_common.codec import U16, U32, U64
from tlspool_common.message import Message
from tlspool_common.record import named_record

Sealed = Annotated[bytes, limits.RECORD_B]


@named_record
class Welcome(Message):
    """The broker takes this master.  The other end of the descriptor is open for as long as that broker lives."""


@named_record
class KeepChannel(Message):
    """Keep this copy of the broker's end of the channel of a worker that an earlier master has forked."""

    worker_id: U32
    pid: U32
    protocol: U16


@named_record
class MasterLeaves(Message):
    """The master was told to end.  Its workers stay with the broker, until another master comes or none does."""


@named_record
class KeepRecord(Message):
    """Keep this for whoever is the broker when it asks (TellSessions): it cannot be read or made by a worker.

    The end of one that is ``accounted`` for is told to each broker, until one says EndKept.
    """

    session_id: U64
    record: Sealed = field(repr=False)
    accounted: bool = False


@named_record
class EndKept(Message):
    """How this session has ended is on the disk: no other broker need hear of it."""

    session_id: U64


@named_record
class BrokerAway(Message):
    """There is no broker at the moment.  Said by the master, in its place, as the last word of the one that died."""


@named_record
class TellSessions(Message):
    """Which sessions relay?  Asked by a broker that finds this worker; what does not relay fails at once.

    The answer is a SessionHere for some of those with numbers above ``after``, lowest first, and SessionsTold.
    """

    nonce: U64
    after: U64


@named_record
class SessionHere(Message):
    """A session relays, or did until a SessionEnded that follows at once; ``record`` is that of its KeepRecord."""

    nonce: U64
    session_id: U64
    record: Sealed = field(repr=False)


@named_record
class SessionsTold(Message):
    """All sessions up to ``last`` were told; with ``more`` there are others, to be asked for."""

    nonce: U64
    last: U64
    more: bool
