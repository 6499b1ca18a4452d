"""Tags of a session in libstub's core: asked for behind its details, as many times as it takes."""

from dataclasses import replace

import pytest

from libstub.errors import ProtocolError
from libstub.events import Established, Finish
from tests.playbook.test_libstub_core import DETAILS, KEY, Play, established, finish, sent
from tlspool_common.aaawire import Tags
from tlspool_common.appwire import Cmd, ErrorReply


@pytest.fixture
def play(no_leaks):
    return Play()


def test_tags_are_asked_for_if_there_are_any(play):
    tags = tuple(f"{number}{'x' * 200}" for number in range(3))
    (effect,) = established(play, replace(DETAILS, tags=3))
    for first in range(3):
        assert Tags.from_payload_untrusted(sent(effect).payload) == Tags(KEY, first)
        assert sent(effect).cmd == Cmd.LOCAL_TAGS
        (effect,) = play.say(Cmd.LOCAL_TAGS, Tags.of(KEY, first, tags).to_payload())
    assert isinstance(effect, Finish)
    assert effect.outcome.tags == tags
    assert effect.outcome.details == replace(DETAILS, tags=3)
    assert play.core.open_count == 0


def test_a_session_that_is_over_before_its_tags_are_told_was_one(play):
    established(play, replace(DETAILS, tags=1))
    over = ErrorReply(-1167372273, "[115] no session has this control key").to_payload()
    assert finish(play.say(Cmd.ERROR, over), Established).tags == ()


def test_there_may_be_fewer_tags_by_then(play):
    established(play, replace(DETAILS, tags=3))
    assert finish(play.say(Cmd.LOCAL_TAGS, Tags(KEY, 0, 0).to_payload()), Established).tags == ()


@pytest.mark.parametrize(
    "told", [Tags(b"x" * 16, 0, 1, ("a",)), Tags(KEY, 1, 2, ("a",)), Tags(KEY, 0, 257, ("a",)), Tags(KEY)]
)
def test_tags_that_make_no_sense(play, told):
    established(play, replace(DETAILS, tags=1))
    if told == Tags(KEY):
        finish(play.say(Cmd.LOCAL_TAGS, b"\xff" * 380), ProtocolError)
    else:
        finish(play.say(Cmd.LOCAL_TAGS, told.to_payload()), ProtocolError)
