"""RFC 7512 URIs: its own examples, what p11tool prints, every refusal, and round trips."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_keyd.pkcs11uri import (
    OBJECT_ATTRIBUTES,
    PLACE_ATTRIBUTES,
    TYPES,
    Pkcs11Uri,
    key_uri,
    parse_untrusted,
    place_of,
    quote,
    token_uri,
)

RFC_7512 = {
    # section 3; those with a PIN or a module in the query are among the refusals
    "pkcs11:": {},
    "pkcs11:object=my-pubkey;type=public": {"object": b"my-pubkey", "type": b"public"},
    "pkcs11:object=my-key;type=private": {"object": b"my-key", "type": b"private"},
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
    "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=": {
        "token": b"The Software PKCS#11 Softtoken",
        "manufacturer": b"Snake Oil, Inc.",
        "model": b"1.0",
        "object": b"my-certificate",
        "type": b"cert",
        "id": bytes.fromhex("69953e5cf4bdec91"),
        "serial": b"",
    },
    "pkcs11:slot-description=Sun%20Metaslot": {"slot-description": b"Sun Metaslot"},
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23": {
        "library-manufacturer": b"Snake Oil, Inc.",
        "library-description": b"Soft Token Library",
        "library-version": b"1.23",
    },
    "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06": {
        "token": b"My token% created by Joe",
        "library-version": b"3",
        "id": bytes.fromhex("010203baddcafe040506"),
    },
    "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert": {
        "token": b"A name with a substring %;",
        "object": b"my-certificate",
        "type": b"cert",
    },
    "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert": {
        "token": "Name with a small A with acute: á".encode(),
        "object": b"my-certificate",
        "type": b"cert",
    },
    # p11tool --list-all --only-urls, and --list-token-urls
    "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=0a1b2c3d4e5f6071;token=tlspool;"
    "id=%A1%00%FF;object=testsrv%40tlspool.arpa2.lab;type=private": {
        "model": b"SoftHSM v2",
        "manufacturer": b"SoftHSM project",
        "serial": b"0a1b2c3d4e5f6071",
        "token": b"tlspool",
        "id": b"\xa1\0\xff",
        "object": b"testsrv@tlspool.arpa2.lab",
        "type": b"private",
    },
    "pkcs11:model=1.0;manufacturer=OpenSC%20Project;serial=;token=PIV%20%28cardholder%29": {
        "model": b"1.0",
        "manufacturer": b"OpenSC Project",
        "serial": b"",
        "token": b"PIV (cardholder)",
    },
    # characters that need no escape, and a slot
    "pkcs11:object=a:[]@!$'()*+,=&b-._~;slot-id=0": {"object": b"a:[]@!$'()*+,=&b-._~", "slot-id": b"0"},
}


@pytest.mark.parametrize("text", RFC_7512)
def test_read(text):
    uri = parse_untrusted(text)
    assert uri.attributes == RFC_7512[text]
    assert list(uri.attributes) == list(RFC_7512[text])
    assert uri.vendor == {}
    assert parse_untrusted(str(uri)) == uri


def test_vendor_attributes_are_kept_and_those_of_the_query_dropped():
    uri = parse_untrusted("pkcs11:token=t;x-vendor_1=a%20b?x-query=/?|&other=")
    assert uri.attributes == {"token": b"t"}
    assert uri.vendor == {"x-vendor_1": b"a b"}
    assert str(uri) == "pkcs11:token=t;x-vendor_1=a%20b"


REFUSED = {
    "": "does not start with pkcs11:",
    "PKCS11:token=t": "does not start with pkcs11:",
    " pkcs11:token=t": "does not start with pkcs11:",
    "file:/etc/key": "does not start with pkcs11:",
    "pkcs11:token": "a part of the path is no attribute=value",
    "pkcs11:;": "a part of the path is no attribute=value",
    "pkcs11:token=t;": "a part of the path is no attribute=value",
    "pkcs11:=t": "a part of the path is no attribute=value",
    "pkcs11:to ken=t": "a part of the path is no attribute=value",
    "pkcs11:tok%65n=t": "a part of the path is no attribute=value",
    "pkcs11:tökén=t": "a part of the path is no attribute=value",
    "pkcs11:token=a;token=a": "token stands there twice",
    "pkcs11:x=a;x=b": "x stands there twice",
    "pkcs11:token=%": "token has a broken % escape",
    "pkcs11:token=%4": "token has a broken % escape",
    "pkcs11:token=%4g": "token has a broken % escape",
    "pkcs11:token=%-1": "token has a broken % escape",
    "pkcs11:token=%٠١": "token has a broken % escape",
    "pkcs11:token=a b": "token has a character that must be written as a % escape",
    "pkcs11:token=a/b": "token has a character that must be written as a % escape",
    "pkcs11:token=a|b": "token has a character that must be written as a % escape",
    "pkcs11:token=a#b": "token has a character that must be written as a % escape",
    "pkcs11:token=a\nb": "token has a character that must be written as a % escape",
    "pkcs11:token=a\0b": "token has a character that must be written as a % escape",
    "pkcs11:token=á": "token has a character that must be written as a % escape",
    "pkcs11:token=\udc80": "token has a character that must be written as a % escape",
    "pkcs11:type=privat": "type is none of private, public, cert, secret-key, data",
    "pkcs11:type=": "type is none of private, public, cert, secret-key, data",
    "pkcs11:type=Private": "type is none of private, public, cert, secret-key, data",
    "pkcs11:slot-id=": "slot-id is no number",
    "pkcs11:slot-id=-1": "slot-id is no number",
    "pkcs11:slot-id=0x1": "slot-id is no number",
    "pkcs11:slot-id=%D9%A1": "slot-id is no number",
    "pkcs11:library-version=": "library-version is no version",
    "pkcs11:library-version=1.": "library-version is no version",
    "pkcs11:library-version=1.2.3": "library-version is no version",
    "pkcs11:library-version=1000": "library-version is no version",
    "pkcs11:?": "a part of the query is no attribute=value",
    "pkcs11:?a": "a part of the query is no attribute=value",
    "pkcs11:?a=1&": "a part of the query is no attribute=value",
    "pkcs11:?a=1&a=2": "a stands there twice",
    "pkcs11:?a=%zz": "a has a broken % escape",
    "pkcs11:?a=b;c": "a has a character that must be written as a % escape",
    "pkcs11:token=t?pin-value=canary": (
        "pin-value is not allowed: the PIN comes from pkcs11_pin_file or a systemd credential"
    ),
    "pkcs11:token=t?a=1&pin-source=file:/canary": (
        "pin-source is not allowed: the PIN comes from pkcs11_pin_file or a systemd credential"
    ),
    "pkcs11:?module-path=/canary.so": "module-path is not allowed: modules come from pkcs11_path",
    "pkcs11:?module-name=canary": "module-name is not allowed: modules come from pkcs11_path",
    "pkcs11:token=" + "t" * 500: "more than 512 bytes",
    "pkcs11:x=" + "é" * 252: "more than 512 bytes",
    "pkcs11:id=" + "a" * 200: "more than 512 bytes with all its % escapes",
    "pkcs11:token=" + ":" * 200: "more than 512 bytes with all its % escapes",
}


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_refused(text):
    with pytest.raises(PoolError) as caught:
        parse_untrusted(text)
    assert caught.value.code is Code.KEY_URI_MALFORMED
    assert caught.value.detail == REFUSED[text]
    assert "canary" not in str(caught.value)


def test_a_whole_uri_of_the_greatest_length_passes():
    text = "pkcs11:object=" + "o" * (limits.KEY_URI_B - len("pkcs11:object="))
    assert str(parse_untrusted(text)) == text


# --- round trips -----------------------------------------------------------------------------------------------------

values = st.binary(max_size=24)
plain = dict.fromkeys((*PLACE_ATTRIBUTES, *OBJECT_ATTRIBUTES), values)
special = {
    "type": st.sampled_from([kind.encode() for kind in TYPES]),
    "slot-id": st.integers(0, 2**64 - 1).map(lambda number: str(number).encode()),
    "library-version": st.from_regex(rb"[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True),
}
attributes = st.fixed_dictionaries({}, optional={**plain, **special})
vendors = st.dictionaries(st.from_regex(r"v-[A-Za-z0-9_-]{1,8}", fullmatch=True), values, max_size=2)


def written(uri):
    """Return whether the text fits; if so it is read back as it was."""
    text = str(uri)
    if len(text) > limits.KEY_URI_B:
        with pytest.raises(PoolError, match="more than"):
            parse_untrusted(text)
        return False
    assert parse_untrusted(text) == uri
    return True


@given(attributes, vendors)
def test_what_is_written_is_read(found, vendor):
    written(Pkcs11Uri(found, vendor))


@given(st.text(alphabet="pkcs1:token=idyes;?&%20aF/ é\0", max_size=60))
def test_what_is_read_is_written(tail):
    try:
        uri = parse_untrusted("pkcs11:" + tail)
    except PoolError as error:
        assert error.code is Code.KEY_URI_MALFORMED
        return
    assert written(uri)


@given(st.binary(max_size=40))
def test_quoting(value):
    for every in (False, True):
        assert parse_untrusted(f"pkcs11:object={quote(value, every=every)}").attributes["object"] == value
    assert quote(value, every=True) == "".join(f"%{octet:02x}" for octet in value)


# --- matching --------------------------------------------------------------------------------------------------------

PLACE = place_of(
    {"token": "pool".ljust(32), "manufacturer": "SoftHSM project", "model": "SoftHSM v2", "serial": "0123\0\0"},
    {"manufacturer": "SoftHSM", "description": "Implementation of PKCS11", "version": "2.6"},
    {"manufacturer": "SoftHSM project", "description": "SoftHSM slot ID 0x1f"},
    7,
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pkcs11:", True),
        ("pkcs11:token=pool", True),
        ("pkcs11:token=pool%20%20", True),
        ("pkcs11:token=pool%00", True),
        ("pkcs11:token=poo", False),
        ("pkcs11:token=Pool", False),
        ("pkcs11:token=", False),
        ("pkcs11:serial=0123;slot-id=7", True),
        ("pkcs11:serial=0123;slot-id=8", False),
        ("pkcs11:slot-id=07", False),
        ("pkcs11:library-version=2.6", True),
        ("pkcs11:library-version=2", False),
        ("pkcs11:library-description=Implementation%20of%20PKCS11;library-manufacturer=SoftHSM", True),
        ("pkcs11:slot-description=SoftHSM%20slot%20ID%200x1f;slot-manufacturer=SoftHSM%20project", True),
        ("pkcs11:object=other;id=%01;type=cert", True),
        ("pkcs11:x-vendor=1", True),
    ],
)
def test_matches_place(text, meant):
    assert parse_untrusted(text).matches_place(PLACE) is meant


def test_a_missing_minor_version_is_zero():
    place = {**PLACE, "library-version": b"2.0"}
    assert parse_untrusted("pkcs11:library-version=2").matches_place(place)
    assert parse_untrusted("pkcs11:library-version=2").may_match(parse_untrusted("pkcs11:library-version=2.0"))


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("pkcs11:", "pkcs11:token=a", True),
        ("pkcs11:token=a", "pkcs11:token=a;serial=1", True),
        ("pkcs11:token=a", "pkcs11:serial=1", True),
        ("pkcs11:token=a", "pkcs11:token=b", False),
        ("pkcs11:token=a;serial=1", "pkcs11:serial=2;token=a", False),
        ("pkcs11:object=a", "pkcs11:object=b", True),
    ],
)
def test_may_match(one, other, may):
    assert parse_untrusted(one).may_match(parse_untrusted(other)) is may
    assert parse_untrusted(other).may_match(parse_untrusted(one)) is may


@pytest.mark.parametrize("text", ["pkcs11:object=a", "pkcs11:id=%01", "pkcs11:object=a;id=%01;type=private"])
def test_names_a_private_key(text):
    parse_untrusted(text).wants_private_key()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pkcs11:", "neither object= nor id="),
        ("pkcs11:token=t;type=private", "neither object= nor id="),
        ("pkcs11:object=a;type=cert", "type=cert where a private key is wanted"),
        ("pkcs11:id=%01;type=secret-key", "type=secret-key"),
    ],
)
def test_names_no_private_key(text, why):
    with pytest.raises(PoolError, match=why) as caught:
        parse_untrusted(text).wants_private_key()
    assert caught.value.code is Code.KEY_URI_MALFORMED


def test_uris_of_tokens_and_keys():
    named = token_uri(PLACE)
    assert named == "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=0123;token=pool"
    assert parse_untrusted(named).matches_place({**PLACE, "slot-id": b"8"})
    assert key_uri(PLACE, b"\1\xff", b"web") == f"{named};id=%01%ff;object=web;type=private"
    assert key_uri(PLACE, b"", b"web") == f"{named};object=web;type=private"
    assert key_uri(PLACE, b"\1", b"\xff" * 200) == f"{named};id=%01;type=private"
    parse_untrusted(key_uri(PLACE, b"\1", b"web")).wants_private_key()
