"""Which token has a key, and what an operator is told of keys and state."""

import pytest

from tests.fixtures.keyd_play import T1, TWO, Play
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.messages import (
    KeyAnswer,
    KeyQuestion,
    TokenFind,
    TokenFound,
    TokenList,
    TokenListed,
    TokenSign,
)
from tlspool_keyd import events as e
from tlspool_keyd import listing

# --- which token ------------------------------------------------------------------------------------------


def found(play, code, generation, spki=b"spki"):
    """Let one seat answer the search."""
    (send,) = [s for s in play.searched if s.generation == generation]
    return play(e.TokenSaid(generation, TokenFound(code=code, detail=code.name, spki=spki), send.exchange))


def search(play, grant=None):
    play.ask(grant or play.grant(key_uri="pkcs11:object=web"))
    play.searched = play.only(e.SendToken)
    assert [(send.generation, type(send.message)) for send in play.searched] == [(1, TokenFind), (2, TokenFind)]


def test_a_key_that_may_be_in_either_module_is_looked_for_once():
    play = Play(*TWO)
    search(play)
    assert found(play, Code.KEY_NOT_FOUND, 1) == []
    found(play, Code.OK, 2)
    (send,) = play.only(e.SendToken)
    assert (send.generation, type(send.message)) == (2, TokenSign)
    play.answer()
    assert play.notes() == ["sign.done"]
    play.ask(play.grant(key_uri="pkcs11:object=web"))
    assert [(send.generation, type(send.message)) for send in play.only(e.SendToken)] == [(2, TokenSign)]
    play.answer(Code.KEY_NOT_FOUND)  # forgotten: it may be elsewhere now
    search(play)


def test_a_key_that_is_in_both_modules():
    play = Play(*TWO)
    search(play)
    found(play, Code.OK, 2)
    found(play, Code.OK, 1)
    assert play.note("sign.refused").fields["why"] == "KEY_AMBIGUOUS"


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ((Code.KEY_NOT_FOUND, Code.PIN_WRONG), Code.PIN_WRONG),
        ((Code.TOKEN_FAILED, Code.KEY_NOT_FOUND), Code.TOKEN_FAILED),
        ((Code.KEY_NOT_FOUND, Code.KEY_NOT_FOUND), Code.KEY_NOT_FOUND),
        ((Code.KEY_AMBIGUOUS, Code.TOKEN_SLOW), Code.KEY_AMBIGUOUS),
        ((Code.INTERNAL, Code.KEY_NOT_FOUND), Code.KEY_NOT_FOUND),
    ],
)
def test_of_several_failures_the_most_telling(codes, told):
    play = Play(*TWO)
    search(play)
    found(play, codes[0], 1)
    found(play, codes[1], 2)
    assert play.note("sign.refused").fields["why"] == told.name


def test_a_module_that_is_down_does_not_hide_a_key_in_the_other():
    play = Play(*TWO, opened=False)
    play.opened(1)
    play.opened(2, Code.TOKEN_GONE, ())
    play.ask(play.grant(key_uri="pkcs11:object=web"))
    (send,) = play.only(e.SendToken)
    play(e.TokenSaid(1, TokenFound(code=0, detail="", spki=b"spki"), send.exchange))
    play.answer()
    assert play.notes() == ["sign.done"]


def test_a_question_is_answered_by_a_search():
    play = Play(*TWO)
    play(e.BrokerSaid(KeyQuestion(uri="pkcs11:object=web"), 1))
    play.searched = play.only(e.SendToken)
    found(play, Code.KEY_NOT_FOUND, 1)
    found(play, Code.OK, 2)
    assert play.only(e.SendBroker) == [e.SendBroker(KeyAnswer(code=0, detail="OK", spki=b"spki"), 1)]


def test_a_long_explanation_is_cut_to_its_field():
    long_one = "pkcs11:token=" + "x" * 300
    play = Play("pkcs11_path /a", f"pkcs11_token {long_one}", "pkcs11_path /b", f"pkcs11_token {long_one}")
    play(e.BrokerSaid(KeyQuestion(uri="pkcs11:object=web"), 1))
    play.searched = play.only(e.SendToken)
    found(play, Code.OK, 1)
    found(play, Code.OK, 2)
    (answer,) = play.only(e.SendBroker)
    assert answer.message.code == Code.KEY_AMBIGUOUS
    assert len(answer.message.detail.encode()) == limits.PROSE_B


# --- what an operator sees ----------------------------------------------------------------------------------


def listed(play, send, keys, more=False, code=Code.OK, detail=""):
    message = TokenListed(code=code, detail=detail, keys=keys, more=more)
    return play(e.TokenSaid(send.generation, message, send.exchange))


def test_the_list_of_keys():
    play = Play(*TWO)
    play(e.KeysAsked(9))
    first, second = play.only(e.SendToken)
    assert first.message == second.message == TokenList(skip=0)
    listed(play, first, (f"EC_P256 ready {T1};object=a",), more=True)
    (third,) = play.only(e.SendToken)
    assert third.message == TokenList(skip=1)
    listed(play, third, (f"- SCHEME_REFUSED {T1};object=b%20c", "nonsense"))
    listed(play, second, (), code=Code.TOKEN_FAILED, detail="CKR_DEVICE_ERROR")
    (answer,) = play.only(e.AnswerKeys)
    assert answer.ticket == 9
    assert answer.keys == (
        {
            "token": "t1",
            "object": "a",
            "kind": "ec_p256",
            "usable": True,
            "trouble": "",
            "uri": f"{T1};object=a",
        },
        {
            "token": "t1",
            "object": "b c",
            "kind": "-",
            "usable": False,
            "trouble": "SCHEME_REFUSED",
            "uri": f"{T1};object=b%20c",
        },
    )
    assert answer.troubles == ("pkcs11: TOKEN_FAILED: CKR_DEVICE_ERROR",)


def test_a_list_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(listing, "KEYS", 3)
    play = Play()
    play(e.KeysAsked(9))
    for _ in range(3):
        listed(play, play.only(e.SendToken)[0], (f"RSA ready {T1};object=a",), more=True)
    (answer,) = play.only(e.AnswerKeys)
    assert len(answer.keys) == 3
    assert "more keys than are shown" in answer.troubles[0]


def test_a_list_without_tokens():
    play = Play("log_level info")
    assert play(e.KeysAsked(9)) == [e.AnswerKeys(9, (), ())]


def test_status_and_title():
    play = Play()
    play.ask(play.grant())
    status = play.core.status({1: 99})
    assert status == {
        "pid": 4711,
        "broker": False,
        "workers": 0,
        "signed": 0,
        "refused": 0,
        "waiting": 1,
        "grants_spent": 1,
        "locked": [],
        "pin_service": {"service": "", "asked_for": "", "tokens": []},
        "modules": [
            {
                "module": "/lib/m.so",
                "wanted": "pkcs11:token=t1",
                "state": "ready",
                "pids": [99],
                "tokens": [f"{T1} ready"],
                "requests": 1,
                "starts": 1,
            }
        ],
    }
    assert play.core.title == "1 token, no broker"


def test_an_operator_asks_about_a_key():
    play = Play()
    play(e.KeyAsked(9, "pkcs11:token=t1;object=a"))
    (send,) = play.only(e.SendToken)
    assert send.message == TokenFind(uri="pkcs11:token=t1;object=a")
    play(e.TokenSaid(send.generation, TokenFound(code=Code.OK, detail="", spki=b"\x30\x00"), send.exchange))
    assert play.only(e.AnswerKey) == [e.AnswerKey(9, Code.OK, "", b"\x30\x00")]


def test_an_operator_asks_about_no_key():
    play = Play(*TWO)
    assert [effect.code for effect in play(e.KeyAsked(9, "nonsense"))] == [Code.KEY_URI_MALFORMED]
