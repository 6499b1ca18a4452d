"""OCSP responses for our own certificates: taken if they are there, asked for when that is due, never waited for."""

import pytest

from tests.playbook.broker import CLIENT, World
from tlspool_broker.credentials import Credential
from tlspool_broker.events import HelperSaid, SendHelper, StartHelper
from tlspool_broker.helper import HUNG_MS, PAUSE_MS
from tlspool_broker.online import STAPLE_AGAIN_MS, STAPLE_WAIT_MS, STAPLES
from tlspool_common.messages import AskStaple, ClientHelloSeen, KeyKind, Side, StapleTold, UseCredential

WITH_RESPONDER = b"leaf" + bytes.fromhex("06082b06010505073001") + b"http://ocsp.example.com/"
CHAIN = (WITH_RESPONDER, b"issuer")


@pytest.fixture
def world(world):
    serve(world, CHAIN)
    return world


def serve(world, chain):
    used = Credential("pkcs11:object=x", chain, KeyKind.EC_P256, bytes(32))
    world.records.identities["localhost", Side.SERVER] = [used]


def stapled(world):
    """Bring a server's session to where it gets its credential; return the staple."""
    app = world.app()
    session_id = world.starttls(app)
    world.say(session_id, ClientHelloSeen)
    [use] = world.to_worker(UseCredential)
    effects = list(world.effects)
    world.gone(app)
    world.effects = effects
    return use.staple


def tell(world, response=b"good", left_s=86_400):
    asked = world.questions[-1]
    until_s = int(world.unix_time_s) + left_s
    world.happen(HelperSaid(world.helper, asked.exchange, StapleTold(response=response, until_s=until_s, detail="")))


def test_the_first_session_goes_without(world):
    assert stapled(world) == b""
    assert world.of(StartHelper)
    world.helper_comes()
    assert [one.message for one in world.questions] == [AskStaple(chain=CHAIN, deadline_ms=STAPLE_WAIT_MS)]
    assert stapled(world) == b""
    assert len(world.questions) == 1  # one question at a time
    tell(world)
    assert stapled(world) == b"good"
    assert len(world.core.online) == 0
    told = world.core.online.describe()
    assert {name: told[name] for name in ("state", "questions", "staples")} == {
        "state": "ready",
        "questions": 0,
        "staples": 1,
    }
    assert (told["staples_asked"], told["staples_fetched"], told["asked"], told["started"]) == (1, 1, 0, 1)


def test_a_staple_is_renewed_in_the_middle_of_its_life(world):
    stapled(world)
    world.helper_comes()
    tell(world)
    world.now_ms += 43_199_000
    assert stapled(world) == b"good"
    assert len(world.questions) == 1
    world.now_ms += 2000
    assert stapled(world) == b"good"
    assert len(world.questions) == 2
    tell(world, b"newer", 172_800)
    assert stapled(world) == b"newer"


def test_a_staple_that_is_over_is_not_used(world):
    stapled(world)
    world.helper_comes()
    tell(world)
    world.now_ms += 86_400_000
    assert stapled(world) == b""


@pytest.mark.parametrize(("response", "left_s"), [(b"", 0), (b"", 1000), (b"old", -1)])
def test_where_there_is_none(world, response, left_s):
    stapled(world)
    world.helper_comes()
    tell(world, response, left_s)
    assert stapled(world) == b""
    world.now_ms += STAPLE_AGAIN_MS - 1
    stapled(world)
    assert len(world.questions) == 1
    world.now_ms += 2
    stapled(world)
    assert len(world.questions) == 2


def test_a_helper_that_goes(world):
    stapled(world)
    world.helper_comes()
    world.helper_goes()
    assert stapled(world) == b""
    assert not world.of(StartHelper)
    world.now_ms += PAUSE_MS[0]
    stapled(world)
    assert world.of(StartHelper)
    world.helper_comes()
    assert len(world.questions) == 2


def test_a_helper_that_hangs(world):
    stapled(world)
    world.helper_comes()
    world.now_ms += STAPLE_WAIT_MS + HUNG_MS
    assert stapled(world) == b""
    assert world.noted("helper.lost")[0]["detail"] == "it does not answer"


@pytest.mark.parametrize("chain", [(b"leaf", b"issuer"), (WITH_RESPONDER,)])
def test_certificates_that_nobody_answers_for(world, chain):
    serve(world, chain)
    assert stapled(world) == b""
    assert not world.of(StartHelper)


def test_clients_staple_nothing(world):
    world.records.identities["me.example", Side.CLIENT] = world.records.identities["localhost", Side.SERVER]
    world.starttls_client(world.app(), flags=CLIENT)
    assert world.to_worker(UseCredential)[0].staple == b""
    assert not world.of(SendHelper)


def test_nothing_is_asked_offline(no_leaks):
    world = World("online no\ncrl_file /etc/crl.pem\n")
    serve(world, CHAIN)
    assert stapled(world) == b""
    assert not world.of(StartHelper)
    world.close()


def test_there_are_so_many_and_no_more(world):
    for number in range(STAPLES + 5):
        serve(world, (WITH_RESPONDER + bytes([number % 256, number // 256]), b"issuer"))
        stapled(world)
    assert len(world.core.online._staples) == STAPLES
