from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.expressions import knowledge, texts
from tests.fixtures.remotes import LEAF, NOW_S, OTHER, Stored, asked, context, evaluate, remote, revoking
from tests.fixtures.running import conjunction
from tests.unit.test_validation_predicates import ODD, handshake
from tlspool_broker.trustdata import Pin
from tlspool_broker.validation import expression, facts, judgement
from tlspool_broker.validation.facts import Facts
from tlspool_broker.validation.judgement import Judgement, Line, Source, baseline, judge, judge_all
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth, Side
from tlspool_common.messages_judging import Finding

ALICE = {"expected": "alice@example.com", "names": ("dns:example.com",)}
SELF = {
    "fault": Code.SELF_SIGNED,
    "detail": "self-signed",
    "self_signed": True,
    "anchor_sha256": b"",
    "strengths": ("ec 256 -",),
}
REVOKED = {"online": asked(crl=Finding.REVOKED, detail="serial 05 is revoked since 2026-05-01 (key compromise)")}


def judged(*several: str, **fields: object) -> Judgement:
    sources = [Source(f"source {number}", text) for number, text in enumerate(several, 1)]
    return judge(sources, remote(**fields), {})


def lines(kind: str, found: Judgement) -> dict[str, Line]:
    return {line.name: line for line in found.trace if line.kind == kind}


# --- the baseline -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression_", "fields", "text"),
    [
        ("", {}, "TI&"),
        ("LFq&&", {}, "TI&"),
        ("T", {}, "I"),
        ("t", {}, "I"),
        ("P", {}, "I"),
        ("d", {}, "I"),
        ("g", {}, "I"),
        ("I", {}, "T"),
        ("i", {}, "T"),
        ("Ti&", {}, ""),
        ("", {"domain_represents_user": True}, "Ti&"),
        ("I", {"domain_represents_user": True}, "T"),
        ("", {"expected": None}, "T"),
        ("P", {"expected": None}, ""),
        ("", {"remote_auth": RemoteAuth.REQUEST}, "TI&"),
        ("", {"remote_auth": RemoteAuth.IGNORE}, ""),
        # what is written, and yet not asked for: of remotes with strong keys, of nobody, in the other role
        ("TL|", {}, "TI&"),
        ("T~", {}, "TI&"),
        ("T1|", {}, "TI&"),
        ("1Ts?", {}, "TI&"),
        ("1Ts?", {"side": Side.SERVER}, "I"),
        ("1TS?", {}, "TI&"),
        ("TPs?", {}, "I"),
        ("TP&L|", {}, "TI&"),
        ("TPL?", {}, "I"),
        ("0", {}, "TI&"),
        ("I1|", {}, "TI&"),
        ("1Is?", {}, "TI&"),
        ("1Is?", {"side": Side.SERVER}, "T"),
        ("IP|", {}, "T"),
        ("II~|", {}, "T"),
        ("TX", {}, "TI&"),
    ],
)
def test_baseline(expression_: str, fields: dict, text: str) -> None:
    assert baseline([Source("localid", expression_)], remote(**fields)) == text
    assert baseline([Source("x", "F"), Source("localid", expression_)], remote(**fields)) == text
    alone = baseline([], remote(**fields))
    assert baseline([Source("trust", expression_, waives=False)], remote(**fields)) == alone


def test_who_need_not_show_anything_is_not_asked_for_it() -> None:
    found = facts.from_done(handshake(), context(side=Side.SERVER, remote_auth=RemoteAuth.REQUEST))
    assert judge([], found, {}).outcome is True
    assert judge([Source("localid", "F")], found, {}).outcome is True
    refused = judge([Source("localid", "T")], found, {})
    assert (refused.outcome, refused.code) == (False, Code.CERTIFICATE_MISSING)
    assert refused.detail == "localid: T is false: the remote showed no certificate"


def test_who_must_show_something_and_does_not() -> None:
    found = facts.from_done(handshake(), context(side=Side.SERVER, expected=None))
    refused = judge([], found, {})
    assert (refused.outcome, refused.code, refused.rule) == (False, Code.CERTIFICATE_MISSING, "baseline")


def test_who_is_ignored_only_passes_what_is_not_about_it() -> None:
    assert judged(remote_auth=RemoteAuth.IGNORE, fault=Code.EXPIRED, names=()).outcome is True
    assert judged("Fq&", remote_auth=RemoteAuth.IGNORE).outcome is True
    refused = judged("T", remote_auth=RemoteAuth.IGNORE)
    assert (refused.code, refused.detail) == (
        Code.VALIDATION_FAILED,
        "source 1: T is false: the application does not ask who the remote is",
    )


def test_the_baseline_is_what_a_pool_without_expressions_asks() -> None:
    assert judged().outcome is True
    assert judged("").outcome is True
    assert judged("1").outcome is True
    assert judged(fault=Code.EXPIRED, detail="the leaf: expired").code is Code.EXPIRED
    assert judged(names=("dns:evil.example",)).code is Code.NAME_MISMATCH
    assert judged(expected=None, names=()).outcome is True
    assert judged(**ALICE).code is Code.NAME_MISMATCH
    assert judged(**ALICE, domain_represents_user=True).outcome is True


def test_an_expression_takes_the_place_of_its_part_of_the_baseline() -> None:
    assert judged("t", **SELF).outcome is True
    assert judged("t", **SELF, names=("dns:evil.example",)).code is Code.NAME_MISMATCH
    assert judged("l", **SELF).code is Code.SELF_SIGNED
    assert judged("i", **ALICE).outcome is True
    assert judged("P", **SELF, stored=Stored((Pin(LEAF),))).outcome is True
    # in any of the sources
    assert judged("l", "t", **SELF).outcome is True
    # but not in one that cannot be read
    assert judged("tX", **SELF).code is Code.SELF_SIGNED


# --- what is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("several", "fields", "code", "detail"),
    [
        (["R"], REVOKED, Code.REVOKED, "source 1: R is false: serial 05 is revoked since 2026-05-01 (key compromise)"),
        (["RO|"], REVOKED, Code.REVOKED, "source 1: R and O are false: serial 05 is revoked since"),
        (["RT|"], {**REVOKED, **SELF}, Code.REVOKED, "source 1: T and R are false: self-signed; serial 05"),
        (["r"], {"stored": Stored(lists={b"\xaa\xbb": revoking(5)})}, Code.REVOKED, "r is false: serial 05 is on the"),
        (["P"], {"stored": Stored((Pin(OTHER, remote="mail.example.com"),))}, Code.PIN_UNMATCHED, "P is false: pinned"),
        (["P"], {}, Code.VALIDATION_FAILED, "source 1: P is false: nothing is pinned for mail.example.com"),
        (["I"], {"names": ()}, Code.NAME_MISMATCH, "I is false: mail.example.com is expected"),
        (["T"], SELF, Code.SELF_SIGNED, "source 1: T is false: self-signed"),
        (["E"], {}, Code.WRONG_PURPOSE, "E is false: extended key usage serverAuth (for smtp) is not critical"),
        (["L"], {"strengths": ("rsa 2048 sha256",)}, Code.KEY_WEAK, "L is false: the key of the leaf is rsa 2048"),
        (["R"], {"online": asked()}, Code.REVOCATION_UNKNOWN, "R is false: revocation list: none"),
        (["Q"], {}, Code.NOT_POST_QUANTUM, "Q is false: the key of the leaf is ec"),
        (["U"], {}, Code.NAME_MISMATCH, "U is false"),
        (
            ["F"],
            {"tls_version": 0x303, "cipher": "AES128-SHA"},
            Code.VALIDATION_FAILED,
            "F is false: the cipher is AES",
        ),
        (["A~"], {}, Code.VALIDATION_FAILED, "source 1: A is true: certificates are encrypted in TLS 1.3"),
        (["0"], {}, Code.VALIDATION_FAILED, "source 1: the expression 0 is never true"),
        (["TX"], {}, Code.VALIDATION_FAILED, "'X' at character 2 means nothing"),
        # a condition that applies is not what is lacking
        (["1Ts~?"], SELF, Code.SELF_SIGNED, "source 1: T is false: self-signed"),
        # several reasons of different kinds
        (
            ["TP|"],
            SELF,
            Code.VALIDATION_FAILED,
            "T and P are false: self-signed; nothing is pinned for mail.example.com",
        ),
        # the more telling source
        (["L", "R"], {**REVOKED, "strengths": ()}, Code.REVOKED, "source 2: R is false"),
        (["L"], {**SELF, "strengths": ()}, Code.SELF_SIGNED, "baseline: T is false: self-signed"),
        (["F~"], {"fault": Code.EXPIRED, "detail": "old"}, Code.EXPIRED, "baseline: T is false: old"),
        # the smaller reason
        (["TL|", "0", "T"], {**SELF, "strengths": ()}, Code.SELF_SIGNED, "source 3: T is false"),
        (["FA&~", "F~"], {}, Code.VALIDATION_FAILED, "source 2: F is true"),
    ],
)
def test_the_reason_of_a_refusal(several: list[str], fields: dict, code: Code, detail: str) -> None:
    found = judged(*several, **fields)
    assert (found.outcome, found.code) == (False, code)
    assert detail in found.detail
    assert found.detail.startswith(found.rule)
    assert (found.missing, found.slow, found.pin) == ((), (), "")


def test_a_refusal_never_has_a_code_of_acceptance() -> None:
    assert Code.OK not in judgement._TELLING
    assert len(set(judgement._TELLING)) == len(judgement._TELLING)


@pytest.mark.parametrize(
    ("several", "fields", "missing", "slow", "detail"),
    [
        (["R"], {}, "R", "R", "source 1: R is not known: no revocation list has been asked yet"),
        (["RO|"], {}, "RO", "RO", "source 1: R and O are not known: no revocation list has been asked yet; no OCSP"),
        (["r", "o"], {}, "ro", "ro", "source 1: r is not known"),
        (["D"], {}, "D", "", "source 1: D is not known: this pool does not look up DANE records"),
        (["DR|"], {}, "DR", "R", "source 1: D and R are not known"),
        # whatever the answer is, it is not enough
        (["DR&"], {}, "DR", "", "source 1: D and R are not known"),
        (["R", "G"], {}, "RG", "", "source 1: R is not known"),
        (["RR~&"], {}, "R", "", ""),
        (["1RS?"], {"side": Side.SERVER, "local_sides": 2, "expected": None}, "R", "R", ""),
    ],
)
def test_what_is_missing(several: list[str], fields: dict, missing: str, slow: str, detail: str) -> None:
    found = judged(*several, **fields)
    assert (found.outcome, found.code) == (None, Code.VALIDATION_UNDECIDED)
    assert (found.missing, found.slow) == (tuple(missing), tuple(slow))
    assert detail in found.detail
    assert found.rule == "source 1"


def test_nobody_is_asked_when_it_makes_no_difference() -> None:
    assert judged("R", fault=Code.EXPIRED).outcome is False
    assert judged("RT|").outcome is True
    assert judged("1RS?").outcome is True


def test_what_is_known_otherwise_counts() -> None:
    sources = [Source("localid", "R")]
    assert judge(sources, remote(), {"R": True}).outcome is True
    refused = judge(sources, remote(), {"R": False})
    assert refused.code is Code.REVOCATION_UNKNOWN
    assert refused.detail == "localid: R is false: so it was found elsewhere"
    assert judge([], remote(), {"T": None}).outcome is None
    assert judge([], remote(), {"R": False}).outcome is True


# --- first use --------------------------------------------------------------------------------------


def test_a_first_use_is_pinned_if_it_was_needed() -> None:
    assert judged("p").pin == "mail.example.com"
    assert judged("p", **SELF).pin == "mail.example.com"
    assert judged("Tp|", **SELF).pin == "mail.example.com"
    assert judged("Tp|").pin == ""
    assert judged("1pS?").pin == ""
    assert judged("T").pin == ""
    assert judged("p", stored=Stored((Pin(LEAF, remote="mail.example.com"),))).pin == ""
    assert judged("p", "0").pin == ""
    assert judged("p", "R").pin == ""
    replaceable = Stored((Pin(OTHER, NOW_S + 5, 9, "mail.example.com"),))
    assert judged("p", stored=replaceable).pin == "mail.example.com"
    assert judged("p", expected=None, names=("email:a@b.example",)).pin == "a@b.example"


# --- the trace --------------------------------------------------------------------------------------


def test_the_trace_has_each_source_and_each_predicate() -> None:
    found = judged("TRO~|&", "1fS?", online=asked(crl=Finding.GOOD, detail="list of today"))
    assert [(line.kind, line.name, line.value) for line in found.trace] == [
        ("source", "baseline", True),
        ("source", "source 1", True),
        ("source", "source 2", True),
        ("predicate", "I", True),
        ("predicate", "f", True),
        ("predicate", "T", True),
        ("predicate", "R", True),
        ("predicate", "O", False),
        ("predicate", "S", False),
    ]
    sources = lines("source", found)
    assert (sources["source 1"].text, sources["source 1"].meaning) == ("TRO~|&", "T and (R or not O)")
    assert sources["source 1"].why == "T is true, R is true"
    assert sources["baseline"].text == "I"
    predicates = lines("predicate", found)
    assert predicates["R"].why == "list of today"
    assert "revocation list" in predicates["R"].meaning
    assert found.trace == found.trace


def test_the_trace_of_what_is_refused_or_open() -> None:
    refused = judged("TX", "0", fault=Code.EXPIRED, detail="old")
    sources = lines("source", refused)
    assert (sources["source 1"].meaning, sources["source 1"].value) == ("malformed", False)
    assert "'X' at character 2" in sources["source 1"].why
    assert sources["source 2"].why == ""
    assert sources["baseline"].why == "T is false"
    assert lines("source", judged("DR&"))["source 1"].why == "D is not known, R is not known"


def test_the_trace_is_for_programs_too() -> None:
    for line in judged("TR&", "0").trace:
        again = json.loads(json.dumps(line.as_json()))
        assert list(again) == ["kind", "name", "text", "meaning", "value", "why"]
        assert Line(**again) == line


def test_a_judgement_of_somebody_else_has_its_own_lines() -> None:
    assert Judgement(False, Code.DATABASE, "away").trace == ()


def test_what_a_certificate_says_moves_no_cursor() -> None:
    found = judged("I", names=("dns:\x1b[2Jevil\u202e",), fault=0)
    assert found.detail.isprintable()
    assert all(line.why.isprintable() for line in found.trace)
    assert judged("T", fault=Code.EXPIRED, detail="a\nb\udcff").detail.isprintable()


def test_a_sentence_fits_into_a_message() -> None:
    names = tuple(f"dns:{'ä' * 60}{number}.example" for number in range(40))
    assert len(judged("I", names=names).detail.encode()) <= limits.PROSE_B
    assert len(judged("T", fault=Code.EXPIRED, detail="ä" * 600).detail.encode()) <= limits.PROSE_B


# --- laws -------------------------------------------------------------------------------------------

SEVERAL = st.lists(texts(size=5), max_size=4)


def sources_of(several: list[str]) -> list[Source]:
    return [Source(f"source {number}", text) for number, text in enumerate(several)]


def conjoined(several: list[str], found: Facts) -> bool | None:
    """The outcome by another way: one expression of all, and predicates one by one."""
    texts_ = [text for text in several if text]
    parsed = [expression.parse(text) for text in texts_]
    base = baseline(sources_of(several), found)
    whole = conjunction([*parsed, expression.parse(base)] if base else parsed)
    return whole.value({letter: judgement.predicates.answer(letter, found).value for letter in whole.mentions})


@settings(deadline=None)
@given(SEVERAL, ODD)
def test_a_judgement_is_the_conjunction(several: list[str], fields: dict) -> None:
    found = remote(**fields)
    result = judge(sources_of(several), found, {})
    assert result.outcome is conjoined(several, found)
    assert judge(sources_of(several[::-1]), found, {}).outcome is result.outcome
    assert (result.code is Code.OK) == (result.outcome is True)
    assert (result.detail == "") == (result.outcome is True)
    assert (result.code is Code.VALIDATION_UNDECIDED) == (result.outcome is None)
    assert result.outcome is None or not result.missing
    assert set(result.slow) <= set(result.missing)
    assert result.detail.isprintable()
    assert len(result.detail.encode()) <= limits.PROSE_B
    assert bool(result.trace) == bool(any(several) or found.context.remote_auth is not RemoteAuth.IGNORE)


@settings(deadline=None)
@given(SEVERAL, ODD, knowledge(), st.integers(0, 3))
def test_one_more_source_never_accepts_more(
    several: list[str], fields: dict, known: dict[str, bool | None], more: int
) -> None:
    """But for the baseline, which yields to what is written."""
    found = remote(**fields)
    all_of_them = judge_all(sources_of(several), found, known)
    some = judge_all(sources_of(several[:more]), found, known)
    if all_of_them.outcome:
        assert some.outcome is True
    if some.outcome is False:
        assert all_of_them.outcome is False


@settings(deadline=None)
@given(SEVERAL, ODD, st.sampled_from(Finding), st.sampled_from(Finding))
def test_what_is_not_worth_asking_would_not_have_helped(
    several: list[str], fields: dict, crl: Finding, ocsp: Finding
) -> None:
    fields["online"] = None
    found = remote(**fields)
    before = judge(sources_of(several), found, {})
    after = judge(sources_of(several), found.with_online(asked(crl, ocsp)), {})
    if before.outcome is None and not before.slow:
        assert after.outcome is not True
    if before.outcome is not None and Finding.REVOKED not in (crl, ocsp):
        assert after.outcome is before.outcome


@settings(deadline=None)
@given(st.lists(st.text(max_size=12) | texts(size=3), max_size=4), ODD)
def test_whatever_is_in_a_database_is_judged(several: list[str], fields: dict) -> None:
    result = judge(sources_of(several), remote(**fields), {})
    for text in several:
        try:
            if text:
                expression.parse(text)
        except PoolError:
            assert result.outcome is False
    assert result.trace is not None


@settings(deadline=None)
@given(SEVERAL, SEVERAL, ODD)
def test_anchors_and_crypto_policies_never_accept_more(several: list[str], added: list[str], fields: dict) -> None:
    found = remote(**fields)
    alone = judge(sources_of(several), found, {})
    more = [Source("trust", text, waives=False) for text in added]
    together = judge([*sources_of(several), *more], found, {})
    if together.outcome:
        assert alone.outcome is True
    if alone.outcome is False:
        assert together.outcome is False


@settings(deadline=None)
@given(SEVERAL, ODD)
def test_nobody_is_accepted_who_has_not_been_authenticated(several: list[str], fields: dict) -> None:
    found = remote(**{**fields, "remote_auth": RemoteAuth.REQUIRE})
    if judge(sources_of(several), found, {}).outcome:
        assert any(evaluate(judgement.AUTHENTICATES, found).values())
