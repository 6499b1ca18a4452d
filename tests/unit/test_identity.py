from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import (
    Donai,
    best_name,
    generalise,
    matches,
    parse_selector_untrusted,
    parse_untrusted,
    remote_matches,
)


def raw(text: str) -> Donai:
    """Split only, as upstream's parser does: for the tables that come from it."""
    user, at, domain = text.rpartition("@")
    return Donai(user if at else None, domain)


GENERALISED = {
    "example.com": "example.com .com .",
    "www.example.com": "www.example.com .example.com .com .",
    "john@example.com": "john@example.com @example.com john@.com @.com john@. @.",
    "user@host.sub.dom": "user@host.sub.dom @host.sub.dom user@.sub.dom @.sub.dom user@.dom @.dom user@. @.",
    "mail": "mail .",
    "localhost": "localhost .",
    "john@localhost": "john@localhost @localhost john@. @.",
    ".example.com": ".example.com .com .",
    ".": ".",
    "a@b@c.d": "a@b@c.d @c.d a@b@.d @.d a@b@. @.",
    "John+x@Example.COM": "John+x@Example.COM @Example.COM John+x@.COM @.COM John+x@. @.",
    "example.com.": "example.com. .com. .",
    "a..b": "a..b ..b .b .",
    "10.0.0.1": "10.0.0.1 .0.0.1 .0.1 .1 .",
    "*.example.com": "*.example.com .example.com .com .",
    "[2001:db8::1]": "[2001:db8::1] .",
    # upstream refuses to start from these; get commands need them
    "@example.com": "@example.com @.com @.",
    "@.example.com": "@.example.com @.com @.",
    "@.": "@.",
}


@pytest.mark.parametrize("text", GENERALISED)
def test_generalisation_table(text: str) -> None:
    assert list(generalise(raw(text))) == GENERALISED[text].split()


@pytest.mark.parametrize("text", ["@example.com", "@.example.com", "@.", "john@", "", "@", ".", ".com", "john@.com"])
def test_a_selector_is_no_identity(text: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_untrusted(text)
    assert caught.value.code is Code.IDENTITY_MALFORMED


MATCHES = [
    ("john@example.com", "john@example.com", True),
    ("john@example.com", "@example.com", True),
    ("john@example.com", "example.com", False),
    ("example.com", "@example.com", False),
    ("example.com", ".com", True),
    ("example.com", ".example.com", False),
    ("www.example.com", ".example.com", True),
    ("notexample.com", ".example.com", False),
    ("john@sub.example.com", "@.example.com", True),
    ("john@example.com", "john@.com", True),
    ("example.com", ".", True),
    ("john@example.com", "@.", True),
    ("john@example.com", "john@.", True),
    ("example.comm", "example.com", False),
    ("example.com", "example.co", False),
    ("example.co", "example.com", False),
    ("example.com.evil.org", "example.com", False),
    ("John@example.com", "john@example.com", True),
]


@pytest.mark.parametrize(("donai", "selector", "expected"), MATCHES)
def test_matching_table(donai: str, selector: str, expected: bool) -> None:
    assert matches(parse_untrusted(donai), selector) is expected


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
domains = st.lists(labels, min_size=1, max_size=5).map(".".join)
users = st.none() | st.from_regex(r"[a-z0-9.+@-]{1,12}", fullmatch=True)
donais = st.builds(Donai, users, domains)


def expected_match(donai: Donai, selector: str) -> bool:
    """The intended rule in words: parity of @, user equal or empty, dotted domain is a proper suffix."""
    wanted = raw(selector)
    if (wanted.user is None) != (donai.user is None) or (wanted.user and wanted.user != donai.user):
        return False
    if wanted.domain.startswith("."):
        return wanted.domain == "." or (donai.domain.endswith(wanted.domain) and donai.domain != wanted.domain)
    return wanted.domain == donai.domain


@given(donais, donais, st.data())
def test_matches_is_generalise_is_the_rule(donai: Donai, other: Donai, data: st.DataObject) -> None:
    selector = data.draw(st.sampled_from([*generalise(donai), *generalise(other), str(other)]))
    assert matches(donai, selector) == (selector in set(generalise(donai))) == expected_match(donai, selector)


@given(donais)
def test_number_of_selectors(donai: Donai) -> None:
    count = donai.domain.count(".") + 2
    selectors = list(generalise(donai))
    assert len(selectors) == len(set(selectors)) == (count if donai.user is None else 2 * count)
    assert selectors[0] == str(donai)
    assert selectors[-1] == ("." if donai.user is None else "@.")


@given(donais)
def test_every_selector_parses_to_itself(donai: Donai) -> None:
    for selector in generalise(donai):
        assert str(parse_selector_untrusted(selector)) == selector


@given(donais)
def test_normal_form_is_read_back(donai: Donai) -> None:
    assert parse_untrusted(str(donai)) == donai


@given(st.text(max_size=40) | st.text("aA.@ß\u0130İЖ*[]:1xn-\u200d。．", max_size=20))
@example("\u0130@a.b")
@example("a@⒈com")
@example("exämple。com")
def test_any_text_gives_normal_form_or_identity_malformed(text: str) -> None:
    for parse in (parse_untrusted, parse_selector_untrusted):
        try:
            donai = parse(text)
        except PoolError as error:
            assert error.code is Code.IDENTITY_MALFORMED
            continue
        assert parse(str(donai)) == donai, "reading normal form changes nothing"
        assert donai.domain.isascii()
        assert donai.domain == donai.domain.lower()
        assert len(str(donai).encode()) <= limits.IDENTITY_B


NORMAL = {
    "Example.COM": "example.com",
    "example.com.": "example.com",
    "John+X@Example.COM.": "john+x@example.com",
    "a@b@c.d": "a@b@c.d",
    "MÜLLER@Bücher.example": "müller@xn--bcher-kva.example",
    "mu\u0308ller@example.com": "müller@example.com",
    "xn--strae-oqa.de": "xn--strae-oqa.de",
    "_25._tcp.mail.example": "_25._tcp.mail.example",
    "*.Example.com": "*.example.com",
    "10.0.0.1": "10.0.0.1",
    "2001:DB8::1": "2001:db8::1",
    "[2001:DB8::1]": "[2001:db8::1]",
    "john@[2001:db8::1]": "john@[2001:db8::1]",
}


@pytest.mark.parametrize("text", NORMAL)
def test_normal_form(text: str) -> None:
    assert str(parse_untrusted(text)) == NORMAL[text]


@pytest.mark.parametrize(
    "text",
    [
        "a..b",
        "example.com..",
        "example .com",
        "jo hn@example.com",
        "john\0@example.com",
        "example.com\n",
        "\ud800.com",
        "exa/mple.com",
        "exa*mple.com",
        "www.*.com",
        "*",
        "straße.de",
        "stra\u200dsse.de",
        "a℀.com",  # becomes a/c
        "⒈com",  # becomes 1.com
        "a…b",  # becomes three dots
        "x＠y.com",  # becomes @ in the domain
        "x" * 64 + ".com",
        "ü" * 63 + ".com",
        "xn--" + "ü",
        "[10.0.0.1]",
        "[example.com]",
        "fe80::1%eth0",
        "example.com:443",
        "a" * 60 + "." + "b" * 60 + "." + "c" * 10,
        "u" * 128 + "@example.com",
        "x" * 100_000,
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(PoolError) as caught:
        parse_untrusted(text)
    assert caught.value.code is Code.IDENTITY_MALFORMED
    assert len(str(caught.value)) < 800


def test_the_longest_identity_fits() -> None:
    longest = "u" * (limits.IDENTITY_B - 4) + "@a.b"
    assert str(parse_untrusted(longest)) == longest


@pytest.mark.parametrize(("text", "address"), [("10.0.0.1", True), ("[::1]", True), ("a.b", False), ("1.2.3", False)])
def test_addresses_are_known(text: str, address: bool) -> None:
    assert parse_untrusted(text).is_address is address


REMOTE = [
    # expected, names, domain_represents_user, proves
    ("example.com", ["dns:example.com"], False, True),
    ("example.com", ["dns:Example.COM"], False, True),
    ("example.com", ["dns:example.com."], False, False),
    ("example.com", ["dns:www.example.com"], False, False),
    ("example.com", ["dns:*.com"], False, False),
    ("example.com", ["dns:*"], False, False),
    ("example.com", ["dns:*.example.com"], False, False),
    ("www.example.com", ["dns:*.example.com"], False, True),
    ("a.www.example.com", ["dns:*.example.com"], False, False),
    ("www.example.com", ["dns:w*.example.com"], False, False),
    ("www.example.com", ["dns:www.*.com"], False, False),
    ("xn--bcher-kva.example.com", ["dns:*.example.com"], False, True),
    ("*.example.com", ["dns:*.example.com"], False, False),
    ("example.com", ["email:john@example.com"], False, False),
    ("example.com", ["email:example.com"], False, False),
    ("example.com", ["example.com", "dns:", "dns:\0", "cn:example.com", "DNS:example.com"], False, False),
    ("example.com", ["dns:example.com\0.evil.org"], False, False),
    ("example.com", [], False, False),
    ("john@example.com", ["email:john@example.com"], False, True),
    ("john@example.com", ["email:John@EXAMPLE.com"], False, True),
    ("john@example.com", ["email:mary@example.com", "dns:example.com"], False, False),
    ("john@example.com", ["email:mary@example.com", "dns:example.com"], True, True),
    ("john@example.com", ["email:mary@example.com"], True, False),
    ("john@www.example.com", ["dns:*.example.com"], True, False),
    ("john@example.com", ["email:@example.com", "email:john@.com", "email:john"], True, False),
    ("10.0.0.1", ["dns:10.0.0.1"], False, False),
    ("10.0.0.1", ["dns:*.0.0.1"], False, False),
    ("10.0.0.1", ["ip:10.0.0.1"], False, True),
    ("[2001:db8::1]", ["ip:2001:db8:0::1"], False, True),
    ("example.com", ["ip:10.0.0.1"], False, False),
    ("john@10.0.0.1", ["ip:10.0.0.1"], True, False),
]


@pytest.mark.parametrize(("expected", "names", "domain_represents_user", "proves"), REMOTE)
def test_remote_matches(expected: str, names: list[str], domain_represents_user: bool, proves: bool) -> None:
    assert remote_matches(parse_untrusted(expected), iter(names), domain_represents_user) is proves


@given(donais, st.lists(st.text(max_size=20).map("dns:".__add__) | st.text(max_size=30)), st.booleans())
def test_names_from_certificates_never_raise(expected: Donai, names: list[str], represents: bool) -> None:
    remote_matches(expected, names, represents)
    best = best_name(names)
    assert best == "" or str(parse_untrusted(best)) == best


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["dns:a.example", "email:John@Example.com", "email:mary@example.com"], "john@example.com"),
        (["dns:*.example", "dns:B.example", "dns:a.example"], "b.example"),
        (["dns:*.example"], ""),
        (["dns:10.0.0.1", "ip:10.0.0.2"], "10.0.0.2"),
        (["email:example.com", "dns:john@example.com", "email:@x"], ""),
        ([], ""),
    ],
)
def test_best_name(names: list[str], best: str) -> None:
    assert best_name(names) == best
