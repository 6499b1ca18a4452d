"""One row for what makes a predicate what it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.remotes import (
    CLIENT_AUTH,
    DAY_S,
    ISSUER,
    LEAF,
    NOW_S,
    OTHER,
    ROOT,
    SERVER_AUTH,
    Stored,
    asked,
    context,
    evaluate,
    remote,
    revoking,
)
from tlspool_broker.trustdata import Pin
from tlspool_broker.validation import facts, pinning, predicates
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.messages import HandshakeDone, RemoteAuth, Side
from tlspool_common.messages_judging import Finding, RevocationTold
from tlspool_common.valexp import LETTERS

YES, NO, UNKNOWN = True, False, None
SERVER = {"side": Side.SERVER, "expected": None}
SELF = {
    "fault": Code.SELF_SIGNED,
    "detail": "self-signed",
    "self_signed": True,
    "anchor_sha256": b"",
    "links": ("- 05",),
}
ALICE = {"expected": "alice@example.com"}
TLS12 = {"tls_version": 0x0303, "cipher": "ECDHE-RSA-AES256-GCM-SHA384", "group": ""}
BOTH_LISTS = {ISSUER: revoking(), ROOT: revoking()}
PQ = ("ml-dsa-65 0 -", "ml-dsa-87 0 -", "ml-dsa-87 0 -")
MINE, THEIRS = Pin(LEAF, remote="mail.example.com"), Pin(OTHER, remote="mail.example.com")


def pinned(*pins: Pin) -> dict[str, object]:
    return {"stored": Stored(pins)}


def lists(*of_issuer: int, **dates: int) -> dict[str, object]:
    return {"stored": Stored(lists={ISSUER: revoking(*of_issuer, **dates), ROOT: revoking(**dates)})}


TABLE = [
    # --- T t: the chain
    ("T", {}, YES, Code.VALIDATION_FAILED, "the chain leads to anchor"),
    ("T", {"fault": Code.EXPIRED, "detail": "the leaf: expired"}, NO, Code.EXPIRED, "the leaf: expired"),
    ("T", {"fault": Code.CHAIN_UNTRUSTED}, NO, Code.CHAIN_UNTRUSTED, "does not lead to a trusted anchor"),
    ("T", SELF, NO, Code.SELF_SIGNED, "self-signed"),
    ("T", {"fault": Code.TOKEN_GONE}, NO, Code.INTERNAL, "an internal error"),
    ("T", {"fault": Code.VALIDATION_UNDECIDED}, NO, Code.INTERNAL, "an internal error"),
    ("T", {"fault": 999}, NO, Code.INTERNAL, "an internal error"),
    ("t", {}, YES, Code.VALIDATION_FAILED, "anchor"),
    ("t", SELF, YES, Code.VALIDATION_FAILED, "self-signed, and its signature is good"),
    ("t", {**SELF, "fault": Code.CHAIN_UNTRUSTED}, NO, Code.CHAIN_UNTRUSTED, "self-signed"),
    ("t", {**SELF, "self_signed": False}, NO, Code.SELF_SIGNED, "self-signed"),
    ("t", {**SELF, "not_after_s": NOW_S - 1}, NO, Code.EXPIRED, "the self-signed certificate has expired on 2026-"),
    ("t", {**SELF, "fault": Code.EXPIRED}, NO, Code.EXPIRED, ""),
    ("t", {**SELF, "fault": Code.NOT_YET_VALID}, NO, Code.NOT_YET_VALID, ""),
    ("t", {**SELF, "fault": Code.WRONG_PURPOSE}, NO, Code.WRONG_PURPOSE, ""),
    ("t", {**SELF, "fault": Code.CHAIN_INVALID}, NO, Code.CHAIN_INVALID, ""),
    # --- I i U: the identity
    ("I", {}, YES, Code.VALIDATION_FAILED, "proves mail.example.com"),
    ("I", {"names": ("dns:*.example.com",)}, YES, Code.VALIDATION_FAILED, ""),
    ("I", {"names": ("dns:evil.example",)}, NO, Code.NAME_MISMATCH, "mail.example.com is expected, the certificate"),
    ("I", {"names": ()}, NO, Code.NAME_MISMATCH, "names nobody"),
    ("I", {**ALICE, "names": ("email:alice@example.com",)}, YES, Code.VALIDATION_FAILED, ""),
    ("I", {**ALICE, "names": ("email:bob@example.com",)}, NO, Code.NAME_MISMATCH, "email:bob@example.com"),
    ("I", {**ALICE, "names": ("dns:example.com",)}, NO, Code.NAME_MISMATCH, ""),
    ("I", {**ALICE, "names": ("dns:example.com",), "domain_represents_user": True}, NO, Code.NAME_MISMATCH, ""),
    ("i", {**ALICE, "names": ("dns:example.com",)}, YES, Code.VALIDATION_FAILED, ""),
    ("i", {**ALICE, "names": ("dns:*.com",)}, NO, Code.NAME_MISMATCH, ""),
    ("i", {**ALICE, "names": ("dns:sub.example.com",)}, NO, Code.NAME_MISMATCH, ""),
    ("i", {"names": ("email:alice@mail.example.com",)}, NO, Code.NAME_MISMATCH, ""),
    ("I", {"expected": None}, YES, Code.VALIDATION_FAILED, "nobody in particular is expected, and it is mail"),
    ("i", {"expected": None, "names": ()}, NO, Code.NAME_MISMATCH, "the certificate names nobody"),
    ("U", {**ALICE, "names": ("email:alice@example.com",)}, YES, Code.VALIDATION_FAILED, "alice@example.com"),
    ("U", {**ALICE, "names": ("dns:example.com",), "domain_represents_user": True}, NO, Code.NAME_MISMATCH, ""),
    ("U", {}, NO, Code.NAME_MISMATCH, "mail.example.com, which is no user"),
    ("U", {"expected": None, "names": ("dns:a.example", "email:a@b.example")}, YES, Code.VALIDATION_FAILED, "a@b"),
    ("U", {"expected": None}, NO, Code.NAME_MISMATCH, "which is no user"),
    ("U", {"expected": None, "names": ()}, NO, Code.NAME_MISMATCH, "names nobody"),
    ("u", {"names": ()}, YES, Code.VALIDATION_FAILED, ""),
    # --- F f A a: the session's secrecy
    ("F", {}, YES, Code.VALIDATION_FAILED, "always in TLS 1.3"),
    ("F", TLS12, YES, Code.VALIDATION_FAILED, "ECDHE-RSA"),
    ("f", {**TLS12, "cipher": "DHE-RSA-AES128-GCM-SHA256"}, YES, Code.VALIDATION_FAILED, ""),
    ("F", {**TLS12, "cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}, YES, Code.VALIDATION_FAILED, ""),
    ("F", {**TLS12, "cipher": "AES256-GCM-SHA384"}, NO, Code.VALIDATION_FAILED, "AES256-GCM-SHA384"),
    ("f", {**TLS12, "cipher": "ECDH-RSA-AES128-SHA"}, NO, Code.VALIDATION_FAILED, ""),
    ("F", {**TLS12, "cipher": ""}, UNKNOWN, Code.VALIDATION_FAILED, "not known of the handshake"),
    ("F", {**TLS12, "tls_version": 0xFEFD}, YES, Code.VALIDATION_FAILED, ""),
    ("A", {}, YES, Code.VALIDATION_FAILED, "TLS 1.3"),
    ("A", {"tls_version": 0xFEFC}, YES, Code.VALIDATION_FAILED, "TLS 1.3"),
    ("A", TLS12, NO, Code.VALIDATION_FAILED, "in the clear before TLS 1.3"),
    ("A", {"tls_version": 0}, UNKNOWN, Code.VALIDATION_FAILED, ""),
    ("a", TLS12, YES, Code.VALIDATION_FAILED, ""),
    # --- S s C c: who we are
    ("s", SERVER, YES, Code.VALIDATION_FAILED, "we are the server"),
    ("s", {}, NO, Code.VALIDATION_FAILED, "we are the client"),
    ("c", {}, YES, Code.VALIDATION_FAILED, ""),
    ("c", SERVER, NO, Code.VALIDATION_FAILED, ""),
    ("S", {**SERVER, "local_sides": 2}, YES, Code.VALIDATION_FAILED, "for the server role only"),
    ("S", {**SERVER, "local_sides": 3}, NO, Code.VALIDATION_FAILED, "in the other role too"),
    ("S", SERVER, NO, Code.VALIDATION_FAILED, "we show no credential"),
    ("S", {"local_sides": 2}, NO, Code.VALIDATION_FAILED, "we are the client"),
    ("C", {"local_sides": 1}, YES, Code.VALIDATION_FAILED, ""),
    ("C", {"local_sides": 3}, NO, Code.VALIDATION_FAILED, ""),
    # --- E e: extended key usage
    ("e", {}, YES, Code.VALIDATION_FAILED, "extended key usage serverAuth (for smtp) is there"),
    ("e", {"usages": (CLIENT_AUTH,)}, NO, Code.WRONG_PURPOSE, "serverAuth (for smtp) is not in the certificate"),
    ("e", {"usages": ()}, NO, Code.WRONG_PURPOSE, ""),
    ("e", {"usages": ("2.5.29.37.0",)}, NO, Code.WRONG_PURPOSE, ""),
    ("e", {**SERVER, "usages": (SERVER_AUTH,)}, NO, Code.WRONG_PURPOSE, "clientAuth"),
    ("e", {"service": "sip"}, NO, Code.WRONG_PURPOSE, "id-kp-sipDomain (for sip)"),
    ("e", {"service": ""}, YES, Code.VALIDATION_FAILED, "extended key usage serverAuth is there"),
    ("E", {}, NO, Code.WRONG_PURPOSE, "is not critical"),
    ("E", {"usages": (f"{SERVER_AUTH}!",)}, YES, Code.VALIDATION_FAILED, "and critical"),
    # --- L l: levels
    ("L", {}, YES, Code.VALIDATION_FAILED, "128 bits of security, 128 are wanted"),
    ("L", {"strengths": ("rsa 2048 sha256",)}, NO, Code.KEY_WEAK, "the key of the leaf is rsa 2048: 112 bits"),
    ("l", {"strengths": ("rsa 2048 sha256",)}, YES, Code.VALIDATION_FAILED, "112 bits of security, 112 are wanted"),
    ("l", {"strengths": ("rsa 1024 sha256",)}, NO, Code.KEY_WEAK, "80 bits"),
    ("l", {"strengths": ("rsa 2048 sha1", "ec 256 -")}, NO, Code.KEY_WEAK, "sha1: no known bits"),
    ("l", {"strengths": ()}, NO, Code.KEY_WEAK, "nothing is known"),
    ("l", {"strengths": ("ec 256 sha256",) * limits.CHAIN_CERTIFICATES}, NO, Code.KEY_WEAK, "8 certificates or more"),
    # --- Q q: quantum computers
    ("q", {}, YES, Code.VALIDATION_FAILED, "X25519MLKEM768"),
    ("q", {"group": "x25519"}, NO, Code.NOT_POST_QUANTUM, "the key exchange is x25519"),
    ("q", TLS12, NO, Code.NOT_POST_QUANTUM, "a classical one"),
    ("q", {"group": ""}, UNKNOWN, Code.VALIDATION_FAILED, ""),
    ("q", {"tls_version": 0, "group": ""}, UNKNOWN, Code.VALIDATION_FAILED, ""),
    ("Q", {"group": "", "strengths": PQ}, UNKNOWN, Code.VALIDATION_FAILED, ""),
    ("Q", {"group": ""}, NO, Code.NOT_POST_QUANTUM, "the leaf is ec"),
    ("Q", {}, NO, Code.NOT_POST_QUANTUM, "the key of the leaf is ec"),
    ("Q", {"strengths": PQ}, YES, Code.VALIDATION_FAILED, "all keys in the chain are post-quantum"),
    ("Q", {"strengths": PQ, "group": "x25519"}, NO, Code.NOT_POST_QUANTUM, "x25519"),
    ("Q", {"strengths": (*PQ[:2], "rsa 4096 sha256")}, NO, Code.NOT_POST_QUANTUM, "certificate 3"),
    ("Q", {"strengths": ()}, NO, Code.NOT_POST_QUANTUM, "nothing is known"),
    ("Q", {"strengths": PQ * 3}, NO, Code.NOT_POST_QUANTUM, "8 certificates or more"),
    # --- P p: pins
    ("P", {}, NO, Code.VALIDATION_FAILED, "nothing is pinned for mail.example.com"),
    ("p", {}, YES, Code.VALIDATION_FAILED, "this certificate is when the session is accepted"),
    ("P", pinned(MINE), YES, Code.VALIDATION_FAILED, "the certificate is pinned for mail.example.com"),
    ("p", pinned(MINE), YES, Code.VALIDATION_FAILED, "the certificate is pinned"),
    ("P", pinned(THEIRS), NO, Code.PIN_UNMATCHED, f"is {OTHER.hex()[:16]}, the certificate is {LEAF.hex()[:16]}"),
    ("p", pinned(THEIRS), NO, Code.PIN_UNMATCHED, OTHER.hex()[:16]),
    ("P", pinned(THEIRS, MINE), YES, Code.VALIDATION_FAILED, ""),
    ("P", pinned(Pin(LEAF, NOW_S, 0, "mail.example.com")), YES, Code.VALIDATION_FAILED, ""),
    ("P", pinned(Pin(LEAF, NOW_S - 1, 0, "mail.example.com")), NO, Code.PIN_UNMATCHED, "has expired"),
    ("p", pinned(Pin(LEAF, NOW_S - 1, 0, "mail.example.com")), NO, Code.PIN_UNMATCHED, "has expired"),
    ("p", pinned(Pin(OTHER, NOW_S - 1, 9, "mail.example.com")), NO, Code.PIN_UNMATCHED, ""),
    ("p", pinned(Pin(OTHER, NOW_S + DAY_S, 2 * DAY_S, "mail.example.com")), YES, Code.VALIDATION_FAILED, "replaced"),
    ("P", pinned(Pin(OTHER, NOW_S + DAY_S, 2 * DAY_S, "mail.example.com")), NO, Code.PIN_UNMATCHED, ""),
    ("p", pinned(Pin(OTHER, NOW_S + 2 * DAY_S, DAY_S, "mail.example.com")), NO, Code.PIN_UNMATCHED, ""),
    ("P", pinned(Pin(LEAF, remote="other.example")), NO, Code.VALIDATION_FAILED, "nothing is pinned"),
    ("P", pinned(Pin(LEAF)), YES, Code.VALIDATION_FAILED, ""),
    ("p", pinned(Pin(OTHER)), YES, Code.VALIDATION_FAILED, "nothing is pinned for mail"),
    ("P", pinned(Pin(LEAF, remote="mail.example.com", for_sides=2)), NO, Code.VALIDATION_FAILED, "nothing is pinned"),
    ("P", {"expected": None, **pinned(MINE)}, YES, Code.VALIDATION_FAILED, "for mail.example.com"),
    ("p", {"expected": None, "names": ()}, NO, Code.VALIDATION_FAILED, "the remote names nobody"),
    ("P", {"expected": None, "names": (), **pinned(Pin(LEAF))}, YES, Code.VALIDATION_FAILED, "whoever shows it"),
    # --- R r: lists
    ("R", {}, UNKNOWN, Code.REVOCATION_UNKNOWN, "no revocation list has been asked yet"),
    ("r", {}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", lists(), YES, Code.VALIDATION_FAILED, "does not have it"),
    ("r", lists(), YES, Code.VALIDATION_FAILED, ""),
    ("R", lists(5), NO, Code.REVOKED, "serial 05 is on the list of 2026-"),
    ("r", lists(5), NO, Code.REVOKED, ""),
    ("O", lists(5), NO, Code.REVOKED, ""),
    ("o", lists(5), NO, Code.REVOKED, ""),
    ("R", {"stored": Stored(lists={ROOT: revoking(0x1F)})}, NO, Code.REVOKED, "serial 1f (certificate 2 of the chain)"),
    ("R", {"stored": Stored(lists={ISSUER: revoking(0x1F)})}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", lists(since_s=NOW_S - 9, until_s=NOW_S - 1), UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", lists(since_s=NOW_S + 1), UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", lists(until_s=0), UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("r", lists(5, since_s=NOW_S - 9, until_s=NOW_S - 1), NO, Code.REVOKED, ""),
    ("R", {**lists(), "links": ("- 05", "ccdd 1f")}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", {**lists(), "links": ()}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", {**lists(), "links": ("aabb", "ccdd 1f")}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", {**lists(), "links": ("zz 05",)}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", {**lists(), "links": ("aabb 05",) * limits.CHAIN_CERTIFICATES}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("R", {**lists(0x80), "links": ("aabb 80",)}, NO, Code.REVOKED, "serial 80"),
    ("R", {**lists(0x80), "links": ("aabb 0080",)}, NO, Code.REVOKED, ""),
    ("R", {"online": asked(crl=Finding.GOOD, detail="as of today")}, YES, Code.VALIDATION_FAILED, "as of today"),
    ("R", {"online": asked(crl=Finding.NONE)}, NO, Code.REVOCATION_UNKNOWN, "revocation list: none"),
    ("R", {"online": asked(crl=Finding.UNKNOWN)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("R", {"online": asked(crl=Finding.ABSENT)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("R", {"online": asked(crl=Finding.BAD)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("R", {"online": asked(ocsp=Finding.GOOD)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("r", {"online": asked(crl=Finding.NONE)}, YES, Code.REVOCATION_UNKNOWN, ""),
    ("r", {"online": asked(crl=Finding.UNKNOWN)}, YES, Code.REVOCATION_UNKNOWN, ""),
    ("r", {"online": asked(crl=Finding.ABSENT)}, YES, Code.REVOCATION_UNKNOWN, ""),
    ("r", {"online": asked(crl=Finding.BAD)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("r", {"online": asked(crl=Finding.REVOKED, detail="since May")}, NO, Code.REVOKED, "since May"),
    ("r", {"online": asked(ocsp=Finding.REVOKED)}, NO, Code.REVOKED, "the OCSP responder says revoked"),
    ("R", {"online": asked(crl=Finding.GOOD, ocsp=Finding.REVOKED)}, NO, Code.REVOKED, ""),
    ("R", {**lists(), "stapled": Finding.REVOKED}, NO, Code.REVOKED, "the stapled OCSP response says revoked"),
    # --- O o: responders
    ("O", {}, UNKNOWN, Code.REVOCATION_UNKNOWN, "no OCSP responder has been asked yet"),
    ("o", {}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("O", {"stapled": Finding.GOOD}, YES, Code.VALIDATION_FAILED, "the stapled OCSP response says good"),
    ("o", {"stapled": Finding.GOOD}, YES, Code.VALIDATION_FAILED, ""),
    ("O", {"stapled": Finding.GOOD, "online": asked(ocsp=Finding.REVOKED)}, NO, Code.REVOKED, ""),
    ("O", {"stapled": Finding.REVOKED, "stapled_detail": "in May"}, NO, Code.REVOKED, "in May"),
    ("o", {"stapled": Finding.REVOKED}, NO, Code.REVOKED, ""),
    ("O", {"stapled": Finding.BAD}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("O", {"stapled": Finding.BAD, "online": asked(ocsp=Finding.GOOD)}, YES, Code.VALIDATION_FAILED, ""),
    ("o", {"stapled": Finding.BAD, "online": asked()}, NO, Code.REVOCATION_UNKNOWN, "the stapled OCSP response is bad"),
    ("O", {"online": asked(ocsp=Finding.GOOD)}, YES, Code.VALIDATION_FAILED, "OCSP responder: good"),
    ("O", {"online": asked()}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("O", {"online": asked(ocsp=Finding.UNKNOWN)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("O", {"online": asked(crl=Finding.GOOD)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("o", {"online": asked()}, YES, Code.REVOCATION_UNKNOWN, ""),
    ("o", {"online": asked(ocsp=Finding.UNKNOWN)}, YES, Code.REVOCATION_UNKNOWN, ""),
    ("o", {"online": asked(ocsp=Finding.ABSENT)}, YES, Code.REVOCATION_UNKNOWN, ""),
    ("o", {"online": asked(ocsp=Finding.BAD)}, NO, Code.REVOCATION_UNKNOWN, ""),
    ("o", {"must_staple": True, "staple_wanted": True}, UNKNOWN, Code.REVOCATION_UNKNOWN, ""),
    ("o", {"must_staple": True, "staple_wanted": True, "online": asked()}, NO, Code.REVOCATION_UNKNOWN, "promises"),
    ("o", {"must_staple": True, "online": asked()}, YES, Code.REVOCATION_UNKNOWN, ""),
    (
        "o",
        {"must_staple": True, "staple_wanted": True, "online": asked(ocsp=Finding.GOOD)},
        YES,
        Code.VALIDATION_FAILED,
        "",
    ),
    ("o", {"must_staple": True, "staple_wanted": True, "stapled": Finding.GOOD}, YES, Code.VALIDATION_FAILED, ""),
    # --- D d G g: not by this pool
    *((letter, {}, UNKNOWN, Code.VALIDATION_FAILED, "this pool does not") for letter in "DdGg"),
]


@pytest.mark.parametrize(("letter", "fields", "value", "code", "why"), TABLE)
def test_meaning(letter: str, fields: dict, value: bool | None, code: Code, why: str) -> None:
    answer = predicates.answer(letter, remote(**fields))
    assert answer.value is value, answer
    assert why in answer.why
    assert answer.why
    if value is not True:
        assert answer.code is code


def test_every_letter_has_rows_and_a_meaning() -> None:
    assert {row[0] for row in TABLE} == set(LETTERS) == set(predicates.MEANINGS)


@pytest.mark.parametrize("auth", [RemoteAuth.REQUEST, RemoteAuth.REQUIRE, RemoteAuth.IGNORE])
def test_without_a_credential_all_about_it_is_false(auth: RemoteAuth) -> None:
    found = facts.from_done(handshake(), context(side=Side.SERVER, remote_auth=auth))
    code = Code.VALIDATION_FAILED if auth is RemoteAuth.IGNORE else Code.CERTIFICATE_MISSING
    for letter in set(LETTERS) - predicates.WITHOUT_CREDENTIAL:
        answer = predicates.answer(letter, found)
        assert (answer.value, answer.code) == (False, code)
    assert evaluate("FfAaSsCcqu", found) == {
        "F": True, "f": True, "A": True, "a": True, "S": False, "s": True, "C": False, "c": False, "q": True, "u": True
    }  # fmt: skip
    assert not pinning.pins_on_acceptance(found)


def test_who_is_ignored_is_not_looked_at_though_it_shows_something() -> None:
    found = remote(remote_auth=RemoteAuth.IGNORE)
    assert found.shown is None
    assert evaluate("TIPRq", found) == {"T": False, "I": False, "P": False, "R": False, "q": True}


def test_databases_are_only_asked_about_what_matters() -> None:
    stored = Stored()
    evaluate(set(LETTERS) - set("PpRrOo"), remote(stored=stored))
    assert stored.asked == []
    evaluate("R", remote(stored=stored))
    assert stored.asked == ["list of aabb", "list of ccdd", "list of aabb"]


def test_only_a_first_use_pins() -> None:
    assert pinning.pins_on_acceptance(remote())
    assert pinning.pins_on_acceptance(remote(**pinned(Pin(OTHER))))
    assert pinning.pins_on_acceptance(remote(**pinned(Pin(OTHER, NOW_S + 1, 9, "mail.example.com"))))
    assert not pinning.pins_on_acceptance(remote(**pinned(MINE)))
    assert not pinning.pins_on_acceptance(remote(**pinned(Pin(LEAF))))
    assert not pinning.pins_on_acceptance(remote(**pinned(THEIRS)))
    assert not pinning.pins_on_acceptance(remote(expected=None, names=()))


def test_the_end_of_the_handshake_tells_the_rest() -> None:
    middle = remote(tls_version=0x0303, cipher="", group="")
    assert evaluate("Fq", middle) == {"F": None, "q": False}
    end = middle.finished(handshake())
    assert evaluate("Fq", end) == {"F": True, "q": True}
    assert end.shown is middle.shown


def test_what_the_helper_tells() -> None:
    told = RevocationTold(crl=Finding.GOOD, ocsp=Finding.UNKNOWN, detail="list of today")
    found = remote().told(told)
    assert evaluate("RrOo", found) == {"R": True, "r": True, "O": False, "o": True}


def handshake() -> HandshakeDone:
    return HandshakeDone(
        session_id=1,
        tls_version=0x0304,
        cipher="TLS_AES_256_GCM_SHA384",
        group="X25519MLKEM768",
        alpn=b"",
        sni="",
        remote_verified=False,
        remote_names=(),
        remote_subject="",
        remote_sha256=b"",
    )


FINDINGS = st.sampled_from(Finding)
ODD = st.fixed_dictionaries(
    {},
    optional={
        "tls_version": st.integers(0, 0xFFFF),
        "cipher": st.text(max_size=20),
        "group": st.sampled_from(["", "x25519", "X25519MLKEM768"]),
        "fault": st.sampled_from([0, *Code, 777]),
        "self_signed": st.booleans(),
        "names": st.lists(
            st.sampled_from(["dns:mail.example.com", "email:a@example.com", "ip:::1", "dns:*", "x"])
            | st.text(max_size=9)
        ).map(tuple),
        "not_after_s": st.integers(0, 2**64 - 1),
        "strengths": st.lists(st.text(max_size=20), max_size=8).map(tuple),
        "usages": st.lists(st.sampled_from([SERVER_AUTH, f"{CLIENT_AUTH}!"]) | st.text(max_size=9)).map(tuple),
        "links": st.lists(st.sampled_from(["aabb 05", "ccdd 1f", "- 5"]) | st.text(max_size=9), max_size=8).map(tuple),
        "must_staple": st.booleans(),
        "stapled": FINDINGS,
        "side": st.sampled_from(Side),
        "remote_auth": st.sampled_from(RemoteAuth),
        "expected": st.sampled_from([None, "mail.example.com", "a@example.com", "::1"]),
        "domain_represents_user": st.booleans(),
        "service": st.text(max_size=16),
        "local_sides": st.integers(0, 3),
        "staple_wanted": st.booleans(),
        "now_s": st.integers(0, 2**64 - 1),
        "online": st.none() | st.builds(asked, FINDINGS, FINDINGS),
        "stored": st.builds(
            Stored,
            st.lists(
                st.builds(
                    Pin,
                    st.sampled_from([LEAF, OTHER]),
                    st.sampled_from([0, NOW_S - 9, NOW_S + 9]),
                    st.sampled_from([0, 20]),
                    st.sampled_from(["", "mail.example.com", "a@example.com"]),
                    st.integers(1, 3),
                )
            ).map(tuple),
            st.dictionaries(st.sampled_from([ISSUER, ROOT]), st.builds(revoking, st.sampled_from([5, 0x1F, 99]))),
        ),
    },
)


@settings(deadline=None)
@given(ODD)
def test_upper_case_implies_lower_case_whatever_a_remote_shows(fields: dict) -> None:
    values = evaluate(LETTERS, remote(**fields))
    for letter in LETTERS:
        if letter.isupper() and values[letter] is True:
            assert values[letter.lower()] is True, letter


@settings(deadline=None)
@given(ODD)
def test_revoked_leaves_nothing_true(fields: dict) -> None:
    found = remote(**fields)
    answers = [predicates.answer(letter, found) for letter in "RrOo"]
    if any(answer.code is Code.REVOKED for answer in answers):
        assert {answer.value for answer in answers} == {False}


@settings(deadline=None)
@given(ODD, FINDINGS, FINDINGS)
def test_to_ask_never_changes_what_was_known(fields: dict, crl: Finding, ocsp: Finding) -> None:
    """But for what turns out to be revoked."""
    fields["online"] = None
    before = evaluate("RrOo", remote(**fields))
    after = evaluate("RrOo", remote(**fields).with_online(asked(crl, ocsp)))
    assert None not in after.values()
    if Finding.REVOKED not in (crl, ocsp):
        assert all(value is None or after[letter] is value for letter, value in before.items())
