"""One border channel on a loop: in order, both ways, and one word when it is over."""

import asyncio
import os
import socket

from tests.fixtures.loops import Lines, on_loop, until
from tlspool_broker.pump import Pump
from tlspool_common.channel import Channel, pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    ClientHelloSeen,
    EndSession,
    Party,
    StartSession,
    TrustAnchor,
    TrustBegin,
)


class End:
    """A pump to a worker, and the worker's end."""

    def __init__(self):
        channel, other = pair(Party.BROKER, Party.WORKER)
        self.log, self.said, self.lost = Lines(), [], []
        self.pump = Pump(
            channel,
            lambda received: self.said.append(received.message),
            lambda reason, broken: self.lost.append((reason, broken)),
            self.log,
        )
        self.pump.start()
        self.worker = Channel(socket.socket(fileno=other.detach()), Party.WORKER, Party.BROKER)

    def close(self):
        self.pump.close()
        self.worker.close()


@on_loop
async def test_messages_go_both_ways():
    end = End()
    end.worker.send(ClientHelloSeen(session_id=1, sni="", alpn=b""))
    await until(lambda: end.said)
    end.pump.send(EndSession(session_id=1, alert=255))
    with end.worker.receive() as received:
        assert received.message == EndSession(session_id=1, alert=255)
    end.close()
    assert not end.lost


@on_loop
async def test_the_end_of_a_channel_is_said_once():
    end = End()
    end.worker.close()
    await until(lambda: end.lost)
    end.pump.send(EndSession(session_id=1, alert=255), None)
    fd = OwnedFd(os.open("/dev/null", os.O_RDONLY))
    end.pump.send(EndSession(session_id=1, alert=255), fd)
    assert fd.closed
    end.pump.give_up("again")
    assert [broken for _, broken in end.lost] == [False]
    end.close()


@on_loop
async def test_a_broken_table_is_said_to_be_that():
    end = End()
    end.worker._sock.send(b"\0\x60rubbish")
    await until(lambda: end.lost)
    assert end.lost[0][1] is True
    end.close()


@on_loop
async def test_a_slow_reader_gets_everything_in_order():
    end = End()
    count = 3000
    for number in range(count):
        end.pump.send(TrustAnchor(generation=number, for_sides=1, certificate=b"x" * 1000))
    assert end.pump.has_queued
    seen = []
    while len(seen) < count:
        received = end.worker.receive()
        if received is None:
            await asyncio.sleep(0)
            continue
        with received:
            seen.append(received.message.generation)
    assert seen == list(range(count))
    await until(lambda: not end.pump.has_queued)
    end.close()


@on_loop
async def test_a_channel_that_ends_while_something_waits():
    """The loop watches it for both directions by then, and is to forget both."""
    for broken in (False, True):
        end = End()
        while not end.pump.has_queued:
            end.pump.send(TrustBegin(generation=1))
        if broken:
            end.worker._sock.send(b"\0\x60rubbish")
        else:
            end.worker.close()
        await until(lambda: end.lost)  # noqa: B023 - awaited here
        assert end.lost[0][1] is broken
        end.close()


@on_loop
async def test_a_message_of_ours_that_breaks_the_table():
    end = End()
    fd = OwnedFd(os.open("/dev/null", os.O_RDONLY))
    start = dict.fromkeys(StartSession.__dataclass_fields__, 1)
    end.pump.send(StartSession(**start), fd)
    assert fd.closed
    assert len(end.lost) == 1
    assert end.log.of("border.internal")
    end.close()
