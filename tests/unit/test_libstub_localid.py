"""``on_localid``, and control of sessions: what programs say and hear, against a pool that speaks V2 only."""

import socket
import threading

import pytest

import libstub
from tests.fixtures.fake_pool import answer, error
from tlspool_common.appwire import Cmd, Control, Details, Flag, Frame, Starttls

WAIT_S = 15


class Host:
    """A pool that proposes identities one after the other, and accepts what it is told."""

    def __init__(self, *proposals):
        self.proposals = list(proposals)
        self.told = []
        self.asked = {}

    def starttls(self, peer, asked):
        self.asked[asked.starttls.ctlkey] = asked
        peer.crypts[asked.starttls.ctlkey] = asked.fds[0]
        peer.keys[asked.frame.reqid] = asked.starttls.ctlkey
        self._propose(peer, asked, self.proposals.pop(0))

    def _propose(self, peer, asked, localid):
        payload = asked.starttls.with_identities(localid, asked.starttls.remoteid).to_payload()
        peer._last_cbid += 1
        peer.send(Frame(asked.frame.reqid, peer._last_cbid, Cmd.STARTTLS_LOCALID, payload))

    def localid(self, peer, asked):
        self.told.append(asked.starttls.localid)
        if asked.fds:
            peer.established(asked)
        elif asked.starttls.localid:
            peer.call_back(asked)
        elif self.proposals:
            self._propose(peer, asked, self.proposals.pop(0))
        else:
            peer.crypts.pop(asked.starttls.ctlkey).close()
            peer.send(error(asked.frame, "[209] the application accepted none of the local identities"))


@pytest.fixture
def propose(fake):
    def make(*proposals):
        host = Host(*proposals)
        fake.on[Cmd.STARTTLS], fake.on[Cmd.STARTTLS_LOCALID] = host.starttls, host.localid
        return host

    return make


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    theirs.settimeout(WAIT_S)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_proposal_is_accepted(propose, fake, pool, pair):
    host = propose("www.example.com")
    asked = []

    def choose(localid):
        asked.append(localid)
        return localid

    with libstub.starttls_server(pair[0], pool=pool, on_localid=choose) as session:
        session.sock.sendall(b"x")
        assert pair[1].recv(1) == b"x"
        assert session.localid == "www.example.com"
    assert (asked, host.told) == (["www.example.com"], ["www.example.com"])
    request = fake.seen[0].starttls
    assert request.flags & Flag.LOCALID_CHECK
    assert request.localid == ""


def test_without_a_function_nothing_is_asked(propose, fake, pool, pair):
    propose()
    fake.on.clear()
    libstub.starttls_server(pair[0], "me.example", pool=pool).close()
    assert not fake.seen[0].starttls.flags & Flag.LOCALID_CHECK


def test_another_identity(propose, pool, pair):
    host = propose("www.example.com")
    libstub.starttls_server(pair[0], pool=pool, on_localid=lambda _: "other.example").close()
    assert host.told == ["other.example"]


@pytest.mark.parametrize("refusal", [None, ""])
def test_refused_until_the_last(propose, pool, pair, refusal):
    host = propose("a.example", "b.example", "c.example")
    answers = iter([refusal, refusal, "c.example"])
    libstub.starttls_client(pair[0], "x.example", pool=pool, on_localid=lambda _: next(answers)).close()
    assert host.told == ["", "", "c.example"]


def test_all_refused(propose, pool, pair):
    propose("a.example", "b.example")
    with pytest.raises(libstub.Refused) as caught:
        libstub.starttls_client(pair[0], "x.example", pool=pool, on_localid=lambda _: None)
    assert caught.value.code == 209
    assert pair[1].recv(1) == b""


def test_the_application_gives_the_socket(propose, pool, pair):
    host = propose("a.example")
    mine, pools = socket.socketpair()
    with mine:
        mine.settimeout(WAIT_S)
        session = libstub.starttls_server(pair[0], pool=pool, on_localid=lambda _: pools)
        assert host.told == ["a.example"]
        assert not session.has_sock
        with pytest.raises(libstub.Misuse, match="not here"):
            _ = session.sock
        mine.sendall(b"x")
        assert pair[1].recv(1) == b"x"
    assert pools.fileno() < 0


@pytest.mark.parametrize(
    ("answer_of", "text"),
    [
        (lambda: 5, "on_localid returns an identity, a connected socket or None, not int"),
        (lambda: b"bytes", "not bytes"),
        (lambda: "x" * 200, "localid has 200 bytes"),
        (lambda: "a\0b", "without NUL"),
    ],
)
def test_answers_that_cannot_be(propose, fake, pool, pair, answer_of, text):
    propose("a.example")
    with pytest.raises(libstub.Misuse, match=text):
        libstub.starttls_server(pair[0], pool=pool, on_localid=lambda _: answer_of())
    fake.await_change(lambda: Cmd.ERROR in fake.commands())
    assert pair[1].recv(1) == b""
    assert pool.ping()


def test_two_sockets_for_the_plaintext(propose, fake, pool, pair):
    propose("a.example")
    plain, _plain_end = socket.socketpair()
    other, _other_end = socket.socketpair()
    with _plain_end, _other_end, pytest.raises(libstub.Misuse, match="plain was given too"):
        libstub.starttls_server(pair[0], pool=pool, plain=plain, on_localid=lambda _: other)
    assert plain.fileno() == other.fileno() == -1


def test_what_the_function_raises_reaches_the_caller(propose, fake, pool, pair):
    """And ends the session: the remote sees the end, the pool a refusal."""
    propose("a.example")

    def choose(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        libstub.starttls_server(pair[0], pool=pool, on_localid=choose)
    fake.await_change(lambda: Cmd.ERROR in fake.commands())
    assert pair[1].recv(1) == b""
    assert pool.ping()


def test_others_go_on_while_one_makes_up_its_mind(propose, fake, pool, pair):
    """The one that decides does not lead; somebody else reads for all, also for those that come later."""
    propose("slow.example")
    deciding, decide = threading.Event(), threading.Event()

    def slow(localid):
        deciding.set()
        assert decide.wait(WAIT_S)
        return localid

    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(libstub.starttls_server(pair[0], pool=pool, on_localid=slow)), daemon=True
    )
    thread.start()
    assert deciding.wait(WAIT_S)
    del fake.on[Cmd.STARTTLS]
    others = []

    def other():
        ours, theirs = socket.socketpair()
        with theirs:
            libstub.starttls_server(ours, "me.example", pool=pool).close()
        others.append(1)

    threads = [threading.Thread(target=other, daemon=True) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(WAIT_S)
    assert len(others) == 8
    assert not outcomes
    decide.set()
    thread.join(WAIT_S)
    outcomes[0].close()


def test_a_leader_that_has_to_decide_makes_another(fake, pool, pair):
    """It led while another waited; that one's answer comes while it decides."""
    host = Host("slow.example")
    fake.on[Cmd.STARTTLS_LOCALID] = host.localid
    held = []
    fake.on[Cmd.STARTTLS] = lambda peer, asked: held.append((peer, asked))
    deciding, decide = threading.Event(), threading.Event()
    done = []

    def slow(localid):
        deciding.set()
        assert decide.wait(WAIT_S)
        return localid

    def leader():
        done.append(libstub.starttls_server(pair[0], pool=pool, on_localid=slow))

    def follower():
        ours, theirs = socket.socketpair()
        with theirs:
            libstub.starttls_server(ours, "me.example", pool=pool).close()
        done.append("follower")

    threads = [threading.Thread(target=leader, daemon=True)]
    threads[0].start()
    fake.await_change(lambda: len(held) == 1)
    threads.append(threading.Thread(target=follower, daemon=True))
    threads[1].start()
    fake.await_change(lambda: len(held) == 2)
    host.starttls(*held[0])
    assert deciding.wait(WAIT_S)
    answer(*held[1])
    threads[1].join(WAIT_S)
    assert done == ["follower"]
    decide.set()
    threads[0].join(WAIT_S)
    done[1].close()


def test_a_function_may_use_the_pool(propose, pool, pair):
    propose("a.example")

    def choose(localid):
        assert pool.ping()
        return localid

    libstub.starttls_server(pair[0], pool=pool, on_localid=choose).close()


def test_a_pool_that_goes_away_while_one_decides(propose, fake, pool, pair):
    propose("a.example")

    def choose(localid):
        fake.drop_connections()
        return localid

    with pytest.raises(libstub.PoolUnavailable):
        libstub.starttls_server(pair[0], pool=pool, on_localid=choose)


# --- control --------------------------------------------------------------------------------------------


class Keys:
    """A pool with one session that may be detached."""

    def __init__(self, fake):
        self.attached = True
        fake.on[Cmd.CONTROL_DETACH] = self.detach
        fake.on[Cmd.CONTROL_REATTACH] = self.reattach
        fake.on[Cmd.LOCAL_IDENTITIES] = self.identities
        self.keys = []

    def detach(self, peer, asked):
        self._change(peer, asked, True, "[120] the session is detached already")

    def reattach(self, peer, asked):
        self._change(peer, asked, False, "[121] the session is controlled by a connection already")

    def _change(self, peer, asked, before, text):
        self.keys.append(Control.from_payload_untrusted(asked.frame.payload).ctlkey)
        if self.attached is not before:
            peer.send(error(asked.frame, text))
            return
        self.attached = not before
        peer.send(Frame(asked.frame.reqid, 0, Cmd.SUCCESS))

    def identities(self, peer, asked):
        key = asked.frame.payload[:16]
        payload = Starttls(localid="me.example", remoteid="x.example", ctlkey=key).to_payload()
        peer.send(Frame(asked.frame.reqid, 0, Cmd.LOCAL_IDENTITIES, payload))


@pytest.fixture
def session(fake, pool, pair):
    with libstub.starttls_client(pair[0], "x.example", pool=pool) as made:
        yield made


def test_detach_and_reattach(fake, session):
    keys = Keys(fake)
    session.detach()
    with pytest.raises(libstub.NotInControl) as caught:
        session.detach()
    assert caught.value.code == 120
    session.reattach()
    with pytest.raises(libstub.NotInControl) as caught:
        session.reattach()
    assert caught.value.code == 121
    assert set(keys.keys) == {session.ctlkey}
    assert len(session.ctlkey) == 16
    assert session.ctlkey.hex() not in repr(session)
    assert repr(session.ctlkey) not in repr(session)


def test_another_pool_object_takes_over(fake, session):
    Keys(fake).attached = False
    with libstub.Pool(fake.path) as other:
        session.reattach(other)
        assert session.pool is other


def test_another_program_takes_over(fake, session):
    Keys(fake).attached = False
    taken = libstub.reattach(session.ctlkey, fake.path)
    assert (taken.localid, taken.remoteid, taken.version, taken.session_id) == (
        "me.example",
        "x.example",
        "TLSv1.3",
        17,
    )
    assert not taken.has_sock
    taken.close()  # closes nothing
    taken.pool.close()


@pytest.mark.parametrize("key", [b"", b"x" * 15, "x" * 16, None])
def test_what_is_no_control_key(pool, key):
    with pytest.raises(libstub.Misuse, match="a control key is 16 bytes"):
        libstub.reattach(key, pool)


def test_a_pool_that_tells_rubbish(fake, pool, session):
    Keys(fake).attached = False
    fake.on[Cmd.LOCAL_DETAILS] = lambda peer, asked: peer.send(
        Frame(asked.frame.reqid, 0, Cmd.LOCAL_DETAILS, b"\xff" * Details.FORM.size)
    )
    with pytest.raises(libstub.ProtocolError, match="malformed"):
        libstub.reattach(session.ctlkey, pool)
