"""What a Pool asks of RADIUS, and accounts that a program holds: against a pool that speaks V2 only."""

import socket

import pytest

import libstub
from tests.fixtures.fake_aaa import ALICE, TAGS, FakeAaa
from tests.fixtures.fake_pool import FakePool
from tlspool_common.appwire import Cmd


@pytest.fixture
def fake(no_leaks, tmp_path):
    aaa = FakeAaa()
    made = FakePool(tmp_path / "s", dict(aaa.on))
    made.aaa = aaa
    yield made
    made.stop()


def test_questions(fake, pool):
    access = pool.authenticate(ALICE, "secret", timeout_s=1.5)
    assert access == libstub.Access("words", (), 60, 0)
    with pytest.raises(libstub.AccessRejected, match="words"):
        pool.authenticate(ALICE, b"guess")
    assert pool.authorize(ALICE, kind="mailbox", instance="INBOX").tags == TAGS
    assert fake.aaa.told == [
        ("authenticate", ALICE, 1500),
        ("authenticate", ALICE, 0),
        ("authorize", ALICE, "mailbox", "INBOX"),
    ]
    assert fake.commands()[:2] == [Cmd.LOCAL_SUBJECT, Cmd.LOCAL_AUTHENTICATE]
    assert fake.connections == 1


def test_an_account(fake, pool):
    with pool.account("print", "job-1", identity=ALICE, at_s=1.5) as account:
        assert (account.acct_id, account.items, account.ended) == ("A-1", None, False)
        account.update(items=3)
        assert account.items == 3
    assert account.ended
    assert fake.aaa.told == [
        ("start", ALICE, "print", "job-1", 1500),
        ("update", "print", "job-1", 3, 0),
        ("end", "print", "job-1", None, 0),
    ]
    assert repr(account) == "<Account print job-1 A-1>"
    with pytest.raises(libstub.Misuse):
        account.end()


def test_an_account_that_was_ended_is_not_ended_again(fake, pool):
    with pool.account("print", identity=ALICE) as account:
        account.end(items=7, at_s=2.0)
    assert [one[0] for one in fake.aaa.told] == ["start", "end"]
    assert fake.aaa.told[-1] == ("end", "print", "", 7, 2000)


def test_an_exception_ends_it_too(fake, pool):
    with pytest.raises(KeyError), pool.account("print", identity=ALICE) as account:
        account.update(2)
        raise KeyError
    assert fake.aaa.open == {}


def test_one_that_was_started_before(fake, pool):
    pool.account("print", "1", identity=ALICE)
    with pytest.raises(libstub.Misuse, match="809"):
        pool.account("print", "1", identity=ALICE)
    again = pool.account("print", "1", identity=ALICE, resume=True)
    assert again.acct_id == ""
    again.end(items=1)
    assert again.acct_id == "A-1"
    with pytest.raises(libstub.Misuse, match="808"):
        libstub.Account(pool, "print", "1").update(2)


def test_a_session_is_whom_it_is_about(fake, pool):
    ours, theirs = socket.socketpair()
    with theirs, libstub.starttls_client(ours, "www.example.com", pool=pool) as tls:
        assert tls.tags == ()
        assert pool.authorize(tls).tags == TAGS
        assert Cmd.LOCAL_SUBJECT not in fake.commands()
        with pytest.raises(libstub.Misuse, match="identity only"):
            pool.authorize(tls, service="imap")


def test_a_pool_without_it(no_leaks, tmp_path):
    plain = FakePool(tmp_path / "p")
    with libstub.Pool(plain.path) as pool, pytest.raises(libstub.Misuse, match="102"):
        pool.authorize(ALICE)
    plain.stop()
