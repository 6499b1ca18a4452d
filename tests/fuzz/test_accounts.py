"""The ledger of the fuzzers finds what it is there to find."""

import pytest

from tests.conformance.layout import build
from tests.fuzz.accounts import Account


def frame(cmd, reqid, cbid=0):
    return build(cmd, reqid, cbid, {})[0]


@pytest.fixture
def account():
    """A STARTTLS was sent under 4, and its callback 9 has come."""
    made = Account()
    made.sent(frame("STARTTLS", 4))
    assert made.debts() == [4]
    made.received(frame("PLAINTEXT_CONNECT", 4, 9))
    assert made.debts() == []
    return made


def test_a_session(account):
    account.sent(frame("PLAINTEXT_CONNECT", 5, 9))
    assert account.debts() == [5]
    account.received(frame("STARTTLS", 5))
    assert (account.debts(), account.open_callbacks()) == ([], [])


@pytest.mark.parametrize(
    ("cmd", "reqid", "cbid"),
    [("STARTTLS", 4, 0), ("PING", 4, 0), ("ERROR", 5, 0), ("PING", 4, 3), ("PLAINTEXT_CONNECT", 4, 0)],
)
def test_what_must_not_come(account, cmd, reqid, cbid):
    with pytest.raises(AssertionError):
        account.received(frame(cmd, reqid, cbid))


def test_one_error_for_a_callback_that_was_not_answered(account):
    account.received(frame("ERROR", 4))
    with pytest.raises(AssertionError):
        account.received(frame("ERROR", 4))


def test_two_replies(account):
    account.sent(frame("PLAINTEXT_CONNECT", 4, 9))
    account.received(frame("STARTTLS", 4))
    with pytest.raises(AssertionError):
        account.received(frame("STARTTLS", 4))


def test_an_answer_after_an_error_is_not_sure_of_a_reply(account):
    account.received(frame("ERROR", 4))
    account.sent(frame("PLAINTEXT_CONNECT", 4, 9))
    assert account.debts() == []


def test_a_request_id_that_is_used_again_is_that_of_the_newest(account):
    account.sent(frame("PING", 4))
    assert account.debts() == [4]
    account.received(frame("PING", 4))
    account.sent(frame("PLAINTEXT_CONNECT", 6, 9))  # nobody can say whether its session is still there
    assert account.debts() == []


def test_registrations_get_no_reply():
    account = Account()
    account.sent(frame("LIDENTRY_REGISTER", 1))
    assert account.debts() == []
    account.received(frame("LIDENTRY_CALLBACK", 1, 3))
