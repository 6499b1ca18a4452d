"""A channel on the loop: in order, both ways, and one word when it is over."""

import asyncio
import os

import pytest

from tests.fixtures.keyd_world import WAIT_S
from tests.fixtures.loops import Lines, until
from tlspool_common import limits
from tlspool_common import line as module
from tlspool_common.channel import ChannelBroken, ChannelClosed, from_fd, pair, raw_pair
from tlspool_common.codec import BadFrame
from tlspool_common.fd import OwnedFd
from tlspool_common.line import Line
from tlspool_common.messages import PROTOCOL, KeyAnswer, KeyChannel, KeydHello, KeyQuestion, Party

QUESTION = KeyQuestion(uri="pkcs11:object=a")


def run(work):
    """Run a test on a loop, bounded."""

    async def bounded():
        async with asyncio.timeout(WAIT_S):
            await work()

    asyncio.run(bounded())


class Ends:
    """A line of keyd's, and the broker's end of its channel."""

    def __init__(self, on_message=None):
        channel, theirs = pair(Party.KEYD, Party.BROKER)
        self.broker = from_fd(theirs, Party.BROKER, Party.KEYD)
        self.heard, self.lost, self.changed = [], [], asyncio.Event()
        self.on_message = on_message or self.heard.append
        self.log = Lines()
        self.line = Line(channel, self._message, self._lost, self.log)

    def _message(self, received):
        self.on_message(received)
        self.changed.set()

    def _lost(self, error):
        self.lost.append(error)
        self.changed.set()

    async def until(self, test):
        while not test():
            self.changed.clear()
            await self.changed.wait()


def test_messages_come_in_order(no_leaks):
    async def work():
        ends = Ends()
        for exchange in range(1, 101):
            ends.broker.send(QUESTION, exchange=exchange)
        await ends.until(lambda: len(ends.heard) == 100)
        assert [received.exchange for received in ends.heard] == list(range(1, 101))
        ends.broker.close()
        await ends.until(lambda: ends.lost)
        assert not isinstance(ends.lost[0], ChannelBroken)
        assert not ends.line.open

    run(work)


def test_a_broken_frame_ends_the_line_once(no_leaks):
    async def work():
        ends = Ends()
        ends.broker._sock.send(b"garbage")
        ends.broker._sock.send(b"garbage")
        await ends.until(lambda: ends.lost)
        assert isinstance(ends.lost[0], ChannelBroken)
        ends.line.send(KeyAnswer(code=0, detail="", spki=b""))  # to nobody
        ends.line.close()
        await asyncio.sleep(0)
        assert len(ends.lost) == 1
        ends.broker.close()

    run(work)


def test_descriptors_that_nobody_takes_are_closed(no_leaks):
    async def work():
        ends = Ends()
        read_fd, write_fd = os.pipe()
        ends.broker.send(KeyChannel(worker_id=1), fd=OwnedFd(write_fd))
        await ends.until(lambda: ends.heard)
        assert os.read(read_fd, 1) == b""
        os.close(read_fd)
        ends.line.close()
        ends.broker.close()

    run(work)


def test_what_does_not_fit_goes_out_when_there_is_room(no_leaks):
    async def work():
        ends = Ends()
        big = KeyAnswer(code=0, detail="", spki=bytes(limits.SPKI_B))
        ends.line.send(KeydHello(protocol=PROTOCOL, pid=1, grant_secret=bytes(32)))
        for exchange in range(1, 301):
            ends.line.send(big, exchange=exchange)
        assert ends.line.has_queued
        got = []
        while len(got) < 301:
            if (received := ends.broker.receive()) is not None:
                got.append(received.exchange)
            await asyncio.sleep(0)
        assert got == list(range(301))
        await until(lambda: not ends.line.has_queued)
        ends.line.close()
        ends.broker.close()

    run(work)


def test_one_who_does_not_read_loses_the_line(no_leaks):
    async def work():
        ends = Ends()
        big = KeyAnswer(code=0, detail="", spki=bytes(limits.SPKI_B))
        while ends.line.open:
            ends.line.send(big)
        assert len(ends.lost) == 1
        assert isinstance(ends.lost[0], ChannelClosed)
        assert not ends.line.has_queued
        one, other = raw_pair()
        ends.line.send(KeyAnswer(code=0, detail="", spki=b""), fd=one)
        assert one.closed
        other.close()
        ends.broker.close()

    run(work)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_reader_that_ends_while_frames_wait(no_leaks, breaks):
    """The loop watches the channel for both directions by then, and is to forget both."""

    async def work():
        ends = Ends()
        big = KeyAnswer(code=0, detail="", spki=bytes(limits.SPKI_B))
        while not ends.line.has_queued:
            ends.line.send(big)
        if breaks:
            ends.broker._sock.send(b"garbage")
        ends.broker.close()
        await ends.until(lambda: ends.lost)
        assert [isinstance(error, ChannelBroken) for error in ends.lost] == [breaks]
        ends.line.close()

    run(work)


def test_the_reason_why_a_line_is_given_up_is_said_once(no_leaks):
    async def work():
        ends = Ends()
        for reason in ("first", "again"):
            ends.line.give_up(ChannelClosed(reason))
        assert [str(error) for error in ends.lost] == ["first"]
        ends.broker.close()

    run(work)


def test_a_message_of_ours_that_breaks_the_table(no_leaks):
    async def work():
        ends = Ends()
        one, other = raw_pair()
        with pytest.raises(BadFrame):
            ends.line.send(QUESTION, fd=one)
        assert one.closed
        assert ends.line.open
        other.close()
        ends.line.close()
        ends.broker.close()

    run(work)


def test_messages_are_traced_without_what_is_in_them(no_leaks):
    async def work():
        ends = Ends()
        ends.line.send(KeydHello(protocol=PROTOCOL, pid=1, grant_secret=bytes(32)))
        ends.broker.send(QUESTION)
        await ends.until(lambda: ends.heard)
        assert ends.log.of("border.message") == [
            {"way": "keyd->broker", "message": "KeydHello"},
            {"way": "broker->keyd", "message": "KeyQuestion"},
        ]
        ends.line.close()
        ends.broker.close()

    run(work)


def test_one_who_floods_leaves_others_their_turn(no_leaks):
    async def work():
        flood, other = Ends(), Ends()
        order = []
        flood.on_message = lambda received: order.append("flood")
        other.on_message = lambda received: order.append("other")
        for _ in range(200):
            flood.broker.send(QUESTION)
        other.broker.send(QUESTION)
        await other.until(lambda: "other" in order)
        assert order.index("other") <= module.FRAMES_AT_ONCE
        await flood.until(lambda: len(order) == 201)
        for ends in (flood, other):
            ends.line.close()
            ends.broker.close()

    run(work)


def test_a_line_closed_by_its_own_message_says_no_more(no_leaks):
    async def work():
        ends = Ends()
        heard = []

        def close(received):
            heard.append(received)
            ends.line.close()

        ends.on_message = close
        for _ in range(5):
            ends.broker.send(QUESTION)
        await ends.until(lambda: heard)
        await asyncio.sleep(0)
        assert len(heard) == 1
        assert ends.lost == []
        ends.broker.close()

    run(work)


@pytest.mark.parametrize("count", [0, 3, 40])
def test_drain_takes_what_has_come(no_leaks, count):
    async def work():
        ends = Ends()
        for _ in range(count):
            ends.broker.send(QUESTION)
        ends.broker.close()
        ends.line.drain()
        assert len(ends.heard) == count
        assert len(ends.lost) == 1

    run(work)


def test_a_line_that_is_left_is_open_for_who_has_a_copy(no_leaks):
    async def work():
        channel, theirs = pair(Party.BROKER, Party.WORKER)
        channel.is_shared = True
        worker = from_fd(theirs, Party.WORKER, Party.BROKER)
        line = Line(channel, lambda _: None, lambda _: None)
        copy = line.copy()
        line.leave()
        assert worker.receive() is None
        second = Line(from_fd(copy, Party.BROKER, Party.WORKER), lambda _: None, lambda _: None)
        second.close()
        with pytest.raises(ChannelClosed):
            worker.receive()

    run(work)


@pytest.mark.parametrize("who", ["hears", "tells"])
def test_an_end_of_which_somebody_has_a_copy_does_not_wake_the_loop_for_ever(no_leaks, who):
    """epoll would go on to watch what was closed, and not taken out, for as long as there is a copy."""

    async def work():
        ends = Ends()
        with ends.line.copy():
            ends.broker.close()
            if who == "tells":
                ends.line.send(KeyAnswer(code=0, detail="", spki=b""), exchange=1)
            await ends.until(lambda: ends.lost)
            assert asyncio.get_running_loop()._selector._selector.poll(0) == []

    run(work)
