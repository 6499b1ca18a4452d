"""Frames of PIN services: what the core sees of them, and that a PIN is where it should be and nowhere else."""

import asyncio
import gc
import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.appwire import FRAME_B, Cmd, Frame
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import PinService, TokenOpen
from tlspool_common.servicewire import Pinentry
from tlspool_keyd import events as e
from tlspool_keyd.pin import Wallet, wipe
from tlspool_keyd.services import Services, frame_untrusted

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "v2"
PIN = b"canary-4711"


def vector(name):
    [path] = VECTORS.glob(f"{name}-*.bin")
    return bytearray(path.read_bytes())


def answer(pin=PIN, cbid=1):
    data = bytearray(Frame(3, cbid, Cmd.PINENTRY, Pinentry(timeout_us=7, flags=5).to_payload()).to_bytes())
    data[20 : 20 + len(pin)] = pin
    return data


def test_the_golden_frames():
    assert frame_untrusted(vector("19")) == (e.ServiceFrame(0, 0, Cmd.PINENTRY, 0, 60_000_000), b"")
    assert frame_untrusted(vector("21")) == (e.ServiceFrame(0, 0x203, Cmd.PINENTRY, 0, 60_000_000, True), b"1234")


@pytest.mark.parametrize("pin", [b"1", b"x" * 127, "žluťoučký".encode(), b"\xff\xfe", b" 1 "])
def test_a_pin_is_any_bytes(pin):
    frame, found = frame_untrusted(answer(pin))
    assert (frame.has_pin, found) == (True, pin)


@pytest.mark.parametrize("pin", [b"", b"\0hidden", b"x" * 128])
def test_what_is_no_pin(pin):
    frame, found = frame_untrusted(answer(pin))
    assert (frame.has_pin, found) == (False, b"")


@given(st.binary(min_size=FRAME_B, max_size=FRAME_B))
def test_any_bytes_are_a_frame(data):
    frame, found = frame_untrusted(bytearray(data))
    assert (frame.reqid, frame.cbid, frame.cmd) == struct.unpack_from("=HHI", data)
    assert frame.has_pin is bool(found)
    assert len(found) <= 127
    assert b"\0" not in found


def test_the_events_hold_no_pin():
    frame, _ = frame_untrusted(answer())
    assert PIN.decode() not in repr(e.ServiceSaid(1, frame))


def test_the_wallet_wipes_what_it_forgets():
    wallet = Wallet()
    first, second, third = bytearray(PIN), bytearray(PIN), bytearray(PIN)
    wallet.keep("/m", "t1", first)
    assert wallet.get("/m", "t1") == PIN
    assert PIN.decode() not in repr(wallet)
    wallet.keep("/m", "t1", second)
    wallet.keep("/m", "t2", third)
    assert first == bytes(len(PIN))
    wallet.forget("/m", "t1")
    wallet.forget("/m", "t1")
    assert (wallet.get("/m", "t1"), second) == (b"", bytes(len(PIN)))
    wallet.close()
    assert third == bytes(len(PIN))


def test_pins_are_not_shown():
    message = TokenOpen(
        module="/m",
        token_uri="pkcs11:",
        pin_secret=b"",
        pin_refused_by=(),
        sessions=1,
        typed_pin_tokens=("pkcs11:token=t",),
        typed_pin_secrets=(PIN,),
    )
    assert PIN.decode() not in repr(message)


class Play:
    """Connections on a running loop; what happens is kept, and ``on_said`` may take the PIN."""

    def __init__(self):
        self.events = []
        self.news = asyncio.Event()
        self.takes = False
        self.taken = None
        self.services = Services(self._happened)

    def _happened(self, event):
        self.events.append(event)
        self.news.set()
        if self.takes and isinstance(event, e.ServiceSaid):
            self.taken = self.services.take_pin()

    async def until(self, kind, count=1):
        async with asyncio.timeout(10):
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                self.news.clear()
                await self.news.wait()
        return found


def adopted(play):
    ours, theirs = socket.socketpair()
    play.services.adopt_untrusted(OwnedFd(theirs.detach()), PinService(reqid=4, flags=1, timeout_us=9))
    return ours


def test_the_frame_and_an_untaken_pin_are_overwritten(no_leaks):
    async def run():
        play = Play()
        with adopted(play) as sock:
            [line] = play.services._lines.values()
            kept = []
            original = play._happened

            def happened(event):
                kept.append(play.services._offered)
                original(event)

            play.services._happened = happened
            sock.send(answer())
            await play.until(e.ServiceSaid, 2)
            assert kept[-1] == bytes(len(PIN))  # the very object that held it
            assert line.frame == bytes(FRAME_B)
            play.takes = True
            sock.send(answer())
            await play.until(e.ServiceSaid, 3)
            assert play.taken == PIN
            wipe(play.taken)
        play.services.close()

    asyncio.run(run())
    gc.collect()


def test_a_connection_that_was_handed_over(no_leaks):
    async def run():
        play = Play()
        with adopted(play) as sock:
            arrived, said = play.events
            assert (arrived.uid, arrived.label.endswith(f"[{os.getpid()}]")) == (os.getuid(), True)
            assert said == e.ServiceSaid(arrived.service, e.ServiceFrame(4, 0, Cmd.PINENTRY, 1, 9))
            play.services.send(arrived.service, Frame(4, 1, Cmd.PINENTRY))
            assert len(sock.recv(1000)) == FRAME_B
            sock.send(bytes(100))
        await play.until(e.ServiceGone)
        play.services.send(arrived.service, Frame(4, 1, Cmd.PINENTRY))  # to nobody
        play.services.close()

    asyncio.run(run())


def test_one_that_does_not_read_is_sent_away(no_leaks):
    async def run():
        play = Play()
        with adopted(play) as sock:
            for _ in range(10_000):
                play.services.send(play.events[0].service, Frame(4, 1, Cmd.PINENTRY))
                if play.services._lines == {}:
                    break
            [gone] = await play.until(e.ServiceGone)
            assert gone.reason
            assert sock.recv(FRAME_B)
        play.services.close()

    asyncio.run(run())


def test_the_listener(tmp_path, no_leaks):
    async def run():
        play = Play()
        path = tmp_path / "pin.sock"
        play.services.listen(path)
        assert path.stat().st_mode & 0o777 == 0o660
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.send(bytes(vector("19")))
            [said] = await play.until(e.ServiceSaid)
            assert said.frame.timeout_us == 60_000_000
            play.services.close()
            assert sock.recv(1) == b""

    asyncio.run(run())
