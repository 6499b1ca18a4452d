"""Control keys: DETACH, REATTACH and FORK, every line of their table, and who may do it."""

import pytest

from tests.playbook.broker import SERVER, World
from tests.playbook.test_broker_ends import SETTING_UP, bring
from tlspool_common.appwire import Cmd, Control, Details, ErrorReply, Flag
from tlspool_common.errors import ComErr
from tlspool_common.messages import EndSession, SessionEnded

KEY = b"k" * 16


def control(world, app, cmd, key=KEY, **options):
    """Send a control command; return 0, or (code, number) of the error."""
    world.send(app, cmd, Control(key).to_payload(), reqid=77, **options)
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cbid) == (77, 0)
    if frame.cmd == Cmd.SUCCESS:
        assert frame.payload == b""
        return 0
    assert frame.cmd == Cmd.ERROR
    reply = ErrorReply.from_payload_untrusted(frame.payload)
    return int(reply.message[1:4]), ComErr(reply.tlserrno - ComErr.OUT_OF_MEMORY.number).name


def detach(world, app, **options):
    return control(world, app, Cmd.CONTROL_DETACH, **options)


def reattach(world, app, **options):
    return control(world, app, Cmd.CONTROL_REATTACH, **options)


def test_the_table(world):
    app, other = world.app(), world.app()
    assert detach(world, app) == reattach(world, app) == (115, "CTLKEY_NOT_FOUND")
    session_id = world.relaying(app, ctlkey=KEY)
    assert detach(world, other) == (122, "CTLKEY_NOT_YOURS")
    assert reattach(world, other) == reattach(world, app) == (121, "CTLKEY_ATTACHED")
    assert detach(world, app) == 0
    assert world.session(session_id).row(0)["detached"]
    assert detach(world, app) == detach(world, other) == (120, "CTLKEY_DETACHED")
    assert reattach(world, other) == 0
    assert detach(world, app) == (122, "CTLKEY_NOT_YOURS")
    assert detach(world, other) == 0
    assert reattach(world, app) == 0
    assert world.state(session_id) == "RELAYING"
    assert not world.to_worker()


def test_as_testcli_does_it(world):
    """REATTACH must fail, DETACH, DETACH must fail, REATTACH, REATTACH must fail."""
    app = world.app()
    world.relaying(app, ctlkey=KEY)
    assert reattach(world, app)[0] == 121
    assert detach(world, app) == 0
    assert detach(world, app)[0] == 120
    assert reattach(world, app) == 0
    assert reattach(world, app)[0] == 121


@pytest.mark.parametrize("state", SETTING_UP)
def test_a_key_controls_nothing_before_the_final_reply(world, state):
    app = world.app()
    bring(world, state, app, ctlkey=KEY)
    assert detach(world, app) == reattach(world, app) == (115, "CTLKEY_NOT_FOUND")


def test_a_key_controls_nothing_once_its_session_ends(world):
    app = world.app()
    session_id = world.relaying(app, ctlkey=KEY)
    world.say(session_id, SessionEnded)
    assert detach(world, app)[0] == reattach(world, app)[0] == 115


def test_wrong_keys(world):
    app = world.app()
    world.relaying(app, ctlkey=KEY)
    for key in (bytes(16), b"k" * 15 + b"l", b"l" + b"k" * 15):
        assert detach(world, app, key=key)[0] == 115


def test_the_name_counts_for_nothing(world):
    app = world.app()
    world.relaying(app, ctlkey=KEY)
    world.send(app, Cmd.CONTROL_DETACH, b"\xff" * 4 + KEY + b"\xff" * 128, reqid=77, passed=world.fd())
    assert world.frames(app)[0].cmd == Cmd.SUCCESS
    assert world.dropped() == [False]


def test_control_follows_the_key(world):
    """Who has the session may ask about it, and its end is that of the session."""
    app, other = world.app(), world.app()
    session_id = world.relaying(app, ctlkey=KEY)
    detach(world, app)
    world.send(app, Cmd.LOCAL_DETAILS, KEY)
    assert world.error(app)[1] == 115
    reattach(world, other)
    world.send(other, Cmd.LOCAL_DETAILS, KEY)
    assert Details.from_payload_untrusted(world.frames(other)[0].payload).session_id == session_id
    world.gone(app)
    assert world.state(session_id) == "RELAYING"
    world.gone(other)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]


@pytest.mark.parametrize("flags", [Flag.FORK, Flag.DETACH, Flag.FORK | Flag.DETACH])
def test_a_session_that_survived_is_taken_over(world, flags):
    app, other, third = world.app(), world.app(), world.app()
    session_id = world.relaying(app, ctlkey=KEY, flags=SERVER | flags)
    if not flags & Flag.DETACH:
        assert reattach(world, other)[0] == 121
    world.gone(app)
    assert reattach(world, other) == 0
    assert reattach(world, third)[0] == 121
    world.gone(other)
    if flags & Flag.FORK:  # it survives each of its connections
        assert reattach(world, third) == 0
    else:
        assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]


def test_a_session_ends_with_who_took_it_over(world):
    app, other = world.app(), world.app()
    session_id = world.relaying(app, ctlkey=KEY)
    detach(world, app)
    reattach(world, other)
    world.gone(other)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]
    world.say(session_id, SessionEnded)
    assert world.noted("session.end")[0]["by"] == "caller gone"


def test_another_user_does_not_get_it(world):
    app, thief = world.app(uid=1000), world.app(uid=1001)
    world.relaying(app, ctlkey=KEY, flags=SERVER | Flag.DETACH)
    assert reattach(world, thief) == (211, "CTLKEY_NOT_YOURS")
    assert reattach(world, app) == 0
    assert world.noted("command.refused")[-1]["rule"] == "ctlkey_foreign"


def test_another_user_gets_it_where_the_key_is_all_it_takes(no_leaks):
    world = World("reattach anybody\n")
    app, other = world.app(uid=1000), world.app(uid=1001)
    world.relaying(app, ctlkey=KEY, flags=SERVER | Flag.DETACH)
    assert reattach(world, other) == 0
    world.close()


def test_sessions_go_on_without_control_where_that_is_wanted(no_leaks):
    """As earlier pools did: the relay goes on, the key is gone, and an operator can still end it."""
    world = World("session_end relay\n")
    app, other = world.app(), world.app()
    session_id = world.relaying(app, ctlkey=KEY)
    forked = world.relaying(app, reqid=2, ctlkey=b"f" * 16, flags=SERVER | Flag.FORK)
    world.gone(app)
    assert not world.to_worker()
    assert world.state(session_id) == world.state(forked) == "RELAYING"
    assert reattach(world, other) == (115, "CTLKEY_NOT_FOUND")
    assert reattach(world, other, key=b"f" * 16) == 0
    world.starttls(other, ctlkey=KEY)
    assert not world.frames(other)
    world.close()


@pytest.mark.parametrize("cmd", [Cmd.CONTROL_DETACH, Cmd.CONTROL_REATTACH])
def test_keys_are_never_logged(world, cmd):
    app = world.app()
    world.relaying(app, ctlkey=KEY)
    control(world, app, Cmd.CONTROL_DETACH)
    control(world, app, cmd)
    said = repr(world.notes)
    assert "kkkk" not in said
    assert KEY.hex() not in said
    assert "session.detached" in said


def test_two_sessions_do_not_disturb_each_other(world):
    app, other = world.app(), world.app()
    first, second = world.relaying(app, reqid=1, ctlkey=KEY), world.relaying(app, reqid=2, ctlkey=b"2" * 16)
    detach(world, app)
    reattach(world, other)
    world.gone(app)
    assert world.to_worker() == [EndSession(session_id=second, alert=255)]
    assert world.state(first) == "RELAYING"


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_details_of_a_session_that_just_ended(world, how):
    app, other = world.app(), world.app()
    session_id = world.relaying(app, ctlkey=KEY)
    if how == "killed":
        world.core.sessions.kill(world.session(session_id), "operator")
    else:
        world.say(session_id, SessionEnded)
    world.send(other, Cmd.LOCAL_DETAILS, KEY)
    assert world.error(other)[1] == 115
    world.send(app, Cmd.LOCAL_DETAILS, KEY)
    assert Details.from_payload_untrusted(world.frames(app)[0].payload).session_id == session_id
    # a new session with the same key comes first
    new = world.relaying(app, reqid=2, ctlkey=KEY)
    world.send(app, Cmd.LOCAL_DETAILS, KEY)
    assert Details.from_payload_untrusted(world.frames(app)[0].payload).session_id == new
    world.later(5_001)
    world.core.sessions.kill(world.session(new), "operator")
    assert len(world.core.sessions.keys._ended) == 1


def test_of_sessions_that_ended_not_too_many_are_kept(world):
    app = world.app()
    for number in range(1003):
        world.say(world.relaying(app, ctlkey=number.to_bytes(16)), SessionEnded)
    assert len(world.core.sessions.keys._ended) == 1000
    assert len(world.core.sessions.keys) == 0


def test_the_index_shows_no_key(world):
    """Keys are looked up by a keyed hash, so that time tells nothing about their beginnings."""
    world.relaying(world.app(), ctlkey=KEY)
    assert not any(KEY[:4] in index for index in world.core.sessions.keys._sessions)
