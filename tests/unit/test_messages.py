"""The table is complete, consistent, and changes only together with PROTOCOL."""

import dataclasses
import hashlib
import inspect
from typing import get_type_hints

from tlspool_common import messages
from tlspool_common.codec import plan
from tlspool_common.messages import BY_CODE, PROTOCOL, TABLE, Message

WIRE = (2, "2d9c61c85d255ece")
"""(PROTOCOL, digest of the table).  A new digest needs a new PROTOCOL, unless no release has had the old one."""


def digest() -> str:
    """Everything that is visible on the wire, in one hash."""
    text = []
    for row in TABLE:
        answer = row.answer.__name__ if row.answer else ""
        text.append(
            f"{row.code} {row.message.__name__} {row.sender} {row.receiver} {row.fds} {answer} {row.first} {row.once}"
        )
        hints = get_type_hints(row.message, include_extras=True)
        text += [f"  {field.name} {hints[field.name]}" for field in dataclasses.fields(row.message)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def test_the_table_changes_only_with_its_number():
    assert (PROTOCOL, digest()) == WIRE


def test_every_message_is_in_the_table_once_and_has_a_wire_form():
    declared = {
        item
        for _, item in inspect.getmembers(messages, inspect.isclass)
        if issubclass(item, Message) and item is not Message
    }
    assert declared == {row.message for row in TABLE}
    assert len(BY_CODE) == len(TABLE)
    for row in TABLE:
        plan(row.message)


def test_requests_are_even_and_answers_follow_them():
    answers = {row.answer for row in TABLE if row.answer}
    for row in TABLE:
        if row.message in answers:
            question = BY_CODE[row.code - 1]
            assert question.answer is row.message
            assert (row.sender, row.receiver) == (question.receiver, question.sender)
        else:
            assert row.code % 2 == 0


def test_nobody_but_keyd_and_its_tokens_ever_sees_a_pin():
    for row in TABLE:
        for field in dataclasses.fields(row.message):
            if "pin" in field.name.split("_"):
                assert {row.sender, row.receiver} == {messages.Party.KEYD, messages.Party.TOKEN}


def test_a_worker_can_only_ask_for_signatures_over_content():
    asked = [row.message.__name__ for row in TABLE if (row.sender, row.receiver) == ("worker", "keyd")]
    assert asked == ["SignHandshake"]
