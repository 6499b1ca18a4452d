"""Signals that end a command.  Here another thread gets them, so that they never interrupt what the main thread does:
as if each came just before a system call that waits."""

import contextlib
import os
import select
import signal
import socket
import threading

import pytest

import libstub
from libstub import services
from tests.fixtures.tunnels import Noted, plan_of
from tlspool_admin import endpoints
from tlspool_admin.ending import heard
from tlspool_admin.tunnel import Tunnel
from tlspool_common.appwire import Cmd
from tlspool_common.fd import await_ready

WAIT_S = 15


@pytest.fixture
def elsewhere():
    """A function that has another thread send a signal to this process, soon, and take it."""
    numbers = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT}
    handlers = {number: signal.getsignal(number) for number in numbers}
    taker = threading.Event()
    thread = threading.Thread(target=taker.wait, args=(60,))
    thread.start()  # with the mask of now, in which nothing is blocked
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    timers = []

    def send(number, seconds=0.2):
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), number)))
        timers[-1].start()

    yield send
    taker.set()
    for one in (thread, *timers):
        one.join()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def ends():
    pair = socket.socketpair()
    with pair[0], pair[1]:
        for one in pair:
            one.setblocking(False)
        yield pair


@contextlib.contextmanager
def in_time(waits):
    """End a wait that no signal has ended, and say so."""
    late = threading.Timer(WAIT_S, waits.stop)
    late.start()
    yield
    assert late.is_alive(), "the signal was not heard"
    late.cancel()
    late.join()


def test_a_signal_that_interrupts_nothing_is_heard(elsewhere, ends):
    called = []
    with heard((signal.SIGUSR1,), lambda: called.append(True), ends[1].fileno()):
        elsewhere(signal.SIGUSR1)
        readable, _, _ = select.select((ends[0],), (), (), WAIT_S)
        assert called and readable


def test_a_handler_raises_out_of_the_wait(elsewhere, ends):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught, heard((signal.SIGUSR1,), leave, ends[1].fileno()):
        elsewhere(signal.SIGUSR1)
        select.select((ends[0],), (), (), WAIT_S)
    assert caught.value.code == 3


def test_what_was_woken_before_is_woken_again(ends):
    before = signal.set_wakeup_fd(ends[0].fileno(), warn_on_full_buffer=False)
    try:
        with heard((), list, ends[1].fileno()):
            pass
    finally:
        after = signal.set_wakeup_fd(before)
    assert after == ends[0].fileno()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_tunnel_that_waits_for_nothing_else_ends(fake, monkeypatch, elsewhere, number):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    plan = plan_of("server", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1", "--localid", "localhost")
    tunnel = Tunnel(plan, endpoints.listen("127.0.0.1:0"), Noted())
    with in_time(tunnel), tunnel.stopped_by_signals():
        elsewhere(number)
        tunnel.run()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.raise_signal(number)  # another one, when all is over, disturbs nothing


@pytest.fixture(params=["pin", "localid"])
def service(request, fake):
    """A service of libstub, whose pool has nothing to ask."""
    fake.on[Cmd.PINENTRY] = fake.on[Cmd.LIDENTRY_REGISTER] = lambda peer, asked: None
    make = {"pin": libstub.PinService, "localid": libstub.LocalidService}[request.param]
    with make(lambda question: "", pool=fake.path) as made:
        yield made


def test_a_service_hears_a_signal_whatever_it_means(service, elsewhere, monkeypatch):
    called = []
    waits = []
    monkeypatch.setattr(services, "await_ready", lambda *words: waits.append(words) or await_ready(*words))
    with heard((signal.SIGUSR1,), lambda: called.append(True), service.wakeup_fd):
        elsewhere(signal.SIGUSR1)
        elsewhere(signal.SIGUSR1, 0.4)
        late = threading.Timer(0.8, service.stop)
        late.start()
        service.run()
    late.join()
    assert called
    assert 3 <= len(waits) <= 5  # to send, and until each of three bytes: it goes on waiting after a signal


def test_a_service_ends_by_a_signal(service, elsewhere):
    def leave():
        raise SystemExit(0)

    with in_time(service), pytest.raises(SystemExit), heard((signal.SIGTERM,), leave, service.wakeup_fd):
        elsewhere(signal.SIGTERM)
        service.run()
