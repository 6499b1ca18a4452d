"""What is asked of RADIUS, frame by frame; and answers that make no sense."""

import pytest

from libstub import aaa, errors
from tlspool_common import errors as table
from tlspool_common.aaawire import AccountKept, Authenticate, Authorize, Said, Subject, Tags, Verdict
from tlspool_common.appwire import PAYLOAD_B, Cmd

KEY = bytes(range(16))


class Session:
    ctlkey = KEY


def padded(payload):
    return payload.to_payload().ljust(PAYLOAD_B, b"\0")


def outcome(talk, *answers):
    """Return what comes of a talk; its commands are in ``talked``."""
    talked = [next(talk)]
    try:
        for answer in answers:
            talked.append(talk.throw(answer) if isinstance(answer, Exception) else talk.send(answer))
    except StopIteration as end:
        return end.value, talked
    raise AssertionError(f"it asks for more: {talked[-1]}")


def test_an_identity_is_named_first():
    talk = aaa.authenticate("john@example.com", "päss", "imap.example.com", "imap", 2.5)
    named = next(talk)
    subject = Subject.from_payload_untrusted(named.payload.ljust(PAYLOAD_B, b"\0"))
    assert (named.cmd, named.reply) == (Cmd.LOCAL_SUBJECT, Cmd.SUCCESS)
    assert (subject.remoteid, subject.localid, subject.service) == ("john@example.com", "imap.example.com", "imap")
    asked = talk.send(b"")
    assert (asked.cmd, asked.reply) == (Cmd.LOCAL_AUTHENTICATE, Cmd.LOCAL_AUTHENTICATE)
    assert Authenticate.from_payload_untrusted(asked.payload.ljust(PAYLOAD_B, b"\0")) == Authenticate(
        subject.key, "päss".encode(), 2500
    )
    assert "ss" not in repr(asked).replace("class", "").replace("password", "")
    with pytest.raises(StopIteration) as end:
        talk.send(padded(Verdict(subject.key, Said.ACCEPTED, "hello", ("gold",), 1, 3600, 60)))
    assert end.value.value == aaa.Access("hello", ("gold",), 3600, 60)


def test_keys_are_new_each_time():
    keys = {next(aaa.authorize("a.example", "", "", "", "", None)).payload[:16] for _ in range(3)}
    assert len(keys) == 3


def test_a_session_has_its_key():
    answer = padded(Verdict(KEY, Said.ACCEPTED))
    access, talked = outcome(aaa.authorize(Session(), "mailbox", "INBOX", "", "", None), answer)
    assert access == aaa.Access()
    [asked] = talked
    assert Authorize.from_payload_untrusted(asked.payload.ljust(PAYLOAD_B, b"\0")) == Authorize(KEY, "mailbox", "INBOX")


def test_an_answer_stands_for_whom_it_is_about():
    access, _ = outcome(aaa.authorize(Session(), "", "", "", "", None), padded(Verdict(KEY, Said.ACCEPTED)))
    assert (access.key, repr(KEY) in repr(access)) == (KEY, False)
    _, [asked] = outcome(aaa.start(access, "print", "", "", "", None, resume=False), padded(AccountKept(1, "A-1")))
    assert asked.payload[:16] == KEY
    with pytest.raises(errors.Misuse, match="identity only"):
        outcome(aaa.authorize(access, "", "", "", "imap", None))


def test_a_rejection_cannot_be_overlooked():
    answer = padded(Verdict(KEY, Said.REJECTED, "no more credit"))
    with pytest.raises(errors.AccessRejected) as caught:
        outcome(aaa.authorize(Session(), "", "", "", "", None), answer)
    assert (caught.value.text, caught.value.code) == ("no more credit", table.Code.RADIUS_REJECTED)
    assert isinstance(caught.value, errors.Refused)
    with pytest.raises(errors.AccessRejected, match="the RADIUS server refuses"):
        outcome(aaa.authorize(Session(), "", "", "", "", None), padded(Verdict(KEY, Said.REJECTED)))


def test_tags_that_did_not_fit_are_asked_for():
    tags = tuple(f"{number}{'x' * 200}" for number in range(4))
    answers = [padded(Verdict.of(KEY, Said.ACCEPTED, "", tags, 0, 0))]
    answers += [padded(Tags.of(KEY, first, tags)) for first in (1, 2, 3)]
    access, talked = outcome(aaa.authorize(Session(), "", "", "", "", None), *answers)
    assert access.tags == tags
    assert [one.cmd for one in talked] == [Cmd.LOCAL_AUTHORIZE] + [Cmd.LOCAL_TAGS] * 3


@pytest.mark.parametrize(
    "answer",
    [
        Verdict(b"x" * 16, Said.ACCEPTED),
        Tags(b"x" * 16, 0, 1, ("a",)),
        Tags(KEY, 1, 2, ("a",)),
        Tags(KEY, 0, 300, ("a",)),
    ],
)
def test_answers_to_other_questions(answer):
    talk = aaa.authorize(Session(), "", "", "", "", None) if isinstance(answer, Verdict) else aaa.more_tags(KEY, (), 1)
    with pytest.raises(errors.ProtocolError):
        outcome(talk, padded(answer), padded(answer))


@pytest.mark.parametrize("kind", ["verdict", "tags", "kept"])
def test_answers_that_are_none(kind):
    talk = {
        "verdict": lambda: aaa.authenticate(Session(), "x", "", "", None),
        "tags": lambda: aaa.more_tags(KEY, (), 1),
        "kept": lambda: aaa.count(Cmd.LOCAL_ACCOUNT_END, "print", "", 1, None),
    }[kind]()
    with pytest.raises(errors.ProtocolError, match="malformed"):
        outcome(talk, b"\xff" * PAYLOAD_B)


def test_a_pool_that_has_fewer_tags_than_it_said():
    found, _ = outcome(aaa.more_tags(KEY, ("a",), 3), padded(Tags(KEY, 1, 1, ())))
    assert found == ("a",)


def test_a_start_that_was_said_before():
    exists = errors.from_reply_untrusted(errors.ErrorReply(-1, "[809] it has been started already"))
    started, _ = outcome(aaa.start(Session(), "print", "1", "", "", None, resume=True), exists)
    assert started == ""
    with pytest.raises(errors.Misuse):
        outcome(aaa.start(Session(), "print", "1", "", "", None, resume=False), exists)
    started, _ = outcome(aaa.start(Session(), "print", "1", "", "", None, resume=True), padded(AccountKept(1, "A-1")))
    assert started == "A-1"


@pytest.mark.parametrize(
    "talk",
    [
        lambda: aaa.authenticate("x" * 128, "p", "", "", None),
        lambda: aaa.authenticate("a.example", "", "", "", None),
        lambda: aaa.authenticate("a.example", "p" * 129, "", "", None),
        lambda: aaa.authenticate("a.example", "p", "", "x" * 16, None),
        lambda: aaa.authenticate("a.example", "p", "", "", 0),
        lambda: aaa.authenticate("a.example", "p", "", "", 1e9),
        lambda: aaa.authenticate(Session(), "p", "b.example", "", None),
        lambda: aaa.authorize(Session(), "k" * 64, "", "", "", None),
        lambda: aaa.authorize(Session(), "a\nb", "", "", "", None),
        lambda: aaa.start(Session(), "", "", "", "", None, resume=False),
        lambda: aaa.start(Session(), "print", "", "", "", -1.0, resume=False),
        lambda: aaa.start(Session(), "print", "", "", "", float("nan"), resume=False),
        lambda: aaa.count(Cmd.LOCAL_ACCOUNT_END, "print", "", -1, None),
        lambda: aaa.count(Cmd.LOCAL_ACCOUNT_END, "print", "", 2**64, None),
    ],
)
def test_what_cannot_be_asked(talk):
    with pytest.raises(errors.Misuse):
        outcome(talk(), b"", b"", b"")
