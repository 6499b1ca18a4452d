"""Services of libstub, with the test in the pool's place: what they say, and what they make of what they hear."""

import contextlib
import socket
import threading

import pytest

import libstub
from libstub.services import _choice, _octets
from tests.fixtures.crowd import crowded
from tests.fixtures.services import localid_service, pin_service
from tlspool_common.appwire import Cmd, ErrorReply, Frame, frame_untrusted
from tlspool_common.errors import Code, app_text, com_err
from tlspool_common.servicewire import Asker, ChoiceFlag, Lidentry, Pinentry

REMOTE = "john@www.example.com"
DEADLINE_S = 1_700_000_300


class FakePool:
    """A socket that a program connects to."""

    def __init__(self, path):
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(20)
        self.sock = None

    def accept(self):
        self.sock, _ = self._listener.accept()
        self.sock.settimeout(20)

    def frame(self):
        data = self.sock.recv(388, socket.MSG_WAITALL)
        assert len(data) == 388, data
        return frame_untrusted(data)

    def say(self, cmd, payload=b"", reqid=0, cbid=0x203):
        self.sock.sendall(Frame(reqid, cbid, cmd, payload).to_bytes())

    def error(self, code, reqid=0):
        self.say(Cmd.ERROR, ErrorReply(com_err(code), app_text(code)).to_payload(), reqid, 0)

    def close(self):
        self._listener.close()
        if self.sock is not None:
            self.sock.close()


@pytest.fixture
def pool(tmp_path, no_leaks):
    made = FakePool(tmp_path / "s")
    yield made
    made.close()


@contextlib.contextmanager
def serving(pool, make, **options):
    with make(pool.path, **options) as service:
        pool.accept()
        yield service, pool.frame()


# --- PINs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pin", ["1234", b"1234", bytearray(b"1234")])
def test_a_pin_goes_into_a_copy_of_the_callback(pool, pin):
    asked = Pinentry(2, 1, 60_000_000, "", "Enter PIN: ", "maker", "model", "serial", "label")
    with serving(pool, pin_service, timeout_s=60) as (service, registration):
        assert registration == Frame(0, 0, Cmd.PINENTRY, Pinentry(timeout_us=60_000_000).to_payload().ljust(380, b"\0"))
        pool.say(Cmd.PINENTRY, asked.to_payload(), reqid=7)
        question = service.question()
        assert question == libstub.PinQuestion(1, "Enter PIN: ", "label", "maker", "model", "serial")
        service.answers.put(pin)
        answer = pool.frame()
        told = Pinentry.from_payload_untrusted(answer.payload)
        assert (answer.reqid, answer.cbid, answer.cmd, told.pin_secret) == (7, 0x203, Cmd.PINENTRY, "1234")
        assert told.prompt == "Enter PIN: "
    if isinstance(pin, bytearray):
        assert pin == bytes(4)


def test_a_program_with_many_descriptors(pool):
    with crowded(), serving(pool, pin_service) as (service, _):
        pool.say(Cmd.PINENTRY, Pinentry().to_payload())
        service.answers.put("1234")
        assert Pinentry.from_payload_untrusted(pool.frame().payload).pin_secret == "1234"


@pytest.mark.parametrize("pin", ["x" * 128, "a\0b", b"\0"])
def test_a_pin_that_does_not_fit_is_not_shown(pin):
    with pytest.raises(libstub.Misuse) as caught:
        _octets(pin)
    assert str(pin) not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"), [(Code.PINENTRY_TAKEN, libstub.Refused), (Code.NO_KEYD, libstub.PoolUnavailable)]
)
def test_an_error_ends_it(pool, code, kind):
    with serving(pool, pin_service) as (service, _):
        pool.error(code)
        error = service.join()
        assert (type(error), error.code) == (kind, code)


def test_the_end_of_the_pool(pool):
    with serving(pool, pin_service) as (service, _):
        pool.sock.close()
        assert isinstance(service.join(), libstub.PoolUnavailable)


def test_what_asks_and_fails_is_told(pool):
    with serving(pool, pin_service) as (service, _):
        pool.say(Cmd.PINENTRY, Pinentry().to_payload())
        service.answers.put(KeyError("x"))
        refusal = pool.frame()
        assert (refusal.cmd, refusal.cbid) == (Cmd.ERROR, 0x203)
        assert isinstance(service.join(), KeyError)


@pytest.mark.parametrize(
    ("cmd", "payload", "cbid"),
    [
        (Cmd.PING, b"", 1),
        (Cmd.PINENTRY, b"", 0),
        (Cmd.PINENTRY, b"\xff" * 380, 1),
        (Cmd.PINENTRY, Pinentry(pin_secret="1234").to_payload(), 1),
    ],
)
def test_what_is_no_question(pool, cmd, payload, cbid):
    with serving(pool, pin_service) as (service, _):
        pool.say(cmd, payload, cbid=cbid)
        assert isinstance(service.join(), libstub.ProtocolError)


def test_it_ends_when_nothing_is_asked_any_more(pool):
    with libstub.PinService(lambda _question: "1234", pool=pool.path) as service:
        thread = threading.Thread(target=service.run, args=(0.05,))
        thread.start()
        pool.accept()
        pool.frame()
        pool.say(Cmd.PINENTRY, Pinentry().to_payload())
        pool.frame()
        thread.join(20)
        assert not thread.is_alive()


def test_a_timeout_that_has_no_field():
    with pytest.raises(libstub.Misuse):
        libstub.PinService(lambda _question: "", timeout_s=5000)
    with pytest.raises(libstub.Misuse):
        libstub.LocalidService(lambda _question: "", timeout_s=0)


def test_there_is_no_pool(tmp_path):
    with pytest.raises(libstub.PoolUnavailable):
        libstub.PinService(lambda _question: "", pool=tmp_path / "nothing")


# --- choices --------------------------------------------------------------------------------------------


def entry(localid, selector, levels, deadline_s=DEADLINE_S):
    flags = ChoiceFlag.WANT_DBENTRY | ChoiceFlag.DBENTRY
    return Lidentry(flags, levels, deadline_s, localid, selector).to_payload()


def inquiry(suggestion="", maxlevels=3, remoteid=REMOTE):
    return Lidentry(ChoiceFlag.WANT_DBENTRY, maxlevels, DEADLINE_S, suggestion, remoteid).to_payload()


def asks(pool, *entries, **fields):
    """Send entries and the inquiry, and say who wants it."""
    for payload in entries:
        pool.say(Cmd.LIDENTRY_CALLBACK, payload)
        answer = pool.frame()
        assert (answer.cmd, answer.payload) == (Cmd.LIDENTRY_CALLBACK, payload.ljust(380, b"\0"))
    pool.say(Cmd.LIDENTRY_CALLBACK, inquiry(**fields))
    assert pool.frame().cmd == Cmd.LOCAL_ASKER
    pool.say(Cmd.LOCAL_ASKER, Asker(1000, 815, "smtpd[815]", "smtp").to_payload(), reqid=1, cbid=0)


def test_a_choice(pool):
    with serving(pool, localid_service, skip=ChoiceFlag.SKIP_USER) as (service, registration):
        told = Lidentry.from_payload_untrusted(registration.payload)
        assert (registration.cmd, told.flags, told.timeout_s) == (Cmd.LIDENTRY_REGISTER, 0x181, 300)
        asks(
            pool,
            entry("me.example", "@.example.com", 3),
            entry("b.example", "@.example.com", 3),
            suggestion="c.example",
        )
        assert service.question() == libstub.LocalidQuestion(
            remoteid=REMOTE,
            suggestion="c.example",
            entries=(
                libstub.DisclosedEntry("me.example", "@.example.com", 3),
                libstub.DisclosedEntry("b.example", "@.example.com", 3),
            ),
            selectors=(REMOTE, "@www.example.com", "john@.example.com", "@.example.com"),
            deadline_s=DEADLINE_S,
            uid=1000,
            pid=815,
            program="smtpd[815]",
            service="smtp",
        )
        service.answers.put(libstub.LocalidChoice("Me.example", "first", "@.EXAMPLE.com", move=True))
        answer = pool.frame()
        told = Lidentry.from_payload_untrusted(answer.payload)
        assert (answer.cmd, answer.cbid) == (Cmd.LIDENTRY_CALLBACK, 0x203)
        assert (told.localid, told.remoteid) == ("me.example", "@.example.com")
        assert told.flags == ChoiceFlag.WANT_DBENTRY | ChoiceFlag.DBINSERT | ChoiceFlag.DBREORDER


@pytest.mark.parametrize(("chosen", "localid"), [(None, ""), ("", ""), ("me.example", "me.example")])
def test_a_choice_that_is_not_stored(pool, chosen, localid):
    with serving(pool, localid_service) as (service, _):
        asks(pool)
        service.question()
        service.answers.put(chosen)
        told = Lidentry.from_payload_untrusted(pool.frame().payload)
        assert (told.localid, told.remoteid, told.flags) == (localid, REMOTE, ChoiceFlag.WANT_DBENTRY)


def test_entries_of_a_session_that_never_asked_are_not_shown(pool):
    with serving(pool, localid_service) as (service, _):
        pool.say(Cmd.LIDENTRY_CALLBACK, entry("other.example", "@.org", 3, DEADLINE_S - 9))
        pool.frame()
        asks(pool, entry("me.example", "@.example.com", 3))
        assert [one.localid for one in service.question().entries] == ["me.example"]


def test_a_pool_that_does_not_tell_who_asks(pool):
    with serving(pool, localid_service) as (service, _):
        pool.say(Cmd.LIDENTRY_CALLBACK, inquiry())
        pool.frame()
        pool.error(Code.COMMAND_UNKNOWN, reqid=1)
        assert service.question().program == ""


@pytest.mark.parametrize(
    "choice",
    [
        libstub.LocalidChoice("@bad"),
        libstub.LocalidChoice("me.example", "last", "evil.example"),
        libstub.LocalidChoice("me.example", "last", "@."),
    ],
)
def test_a_choice_that_cannot_be(choice):
    asked = Lidentry.from_payload_untrusted(inquiry().ljust(380, b"\0"))
    question = libstub.LocalidQuestion(REMOTE, "", (), (REMOTE, "@www.example.com"), DEADLINE_S)
    with pytest.raises(libstub.Misuse):
        _choice(choice, asked, question)


def test_stop_before_anything_is_asked(pool):
    with serving(pool, localid_service) as (service, _):
        service.service.stop()
        assert service.join() is None
