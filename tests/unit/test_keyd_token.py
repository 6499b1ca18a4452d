"""Modules, tokens and keys, with SoftHSM in this process."""

import os

import PyKCS11
import pytest

from tests.fixtures import libcrypto, slowtoken
from tests.fixtures.keyd_world import NAMES, PIN, KeydWorld
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind
from tlspool_keyd import token, token_keys
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.token import Module, ckr_name, trouble

KINDS = {"rsa": KeyKind.RSA, "ec": KeyKind.EC_P256, "ec384": KeyKind.EC_P384, "ed25519": KeyKind.ED25519}
ALL = parse_untrusted("pkcs11:")
CONTENT = b"content"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tokens of a world whose daemon is never started."""
    made = KeydWorld(tmp_path_factory.mktemp("w"), {kind: kind for kind in KINDS})
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = made.environment["SOFTHSM2_CONF"]
    yield made
    libcrypto.forget_errors()
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


def opened(wanted=ALL, pin=PIN, refused=(), path=slowtoken.SOFTHSM):
    module = Module(path)
    module.open(wanted, pin.encode(), refused)
    return module


@pytest.fixture
def module(world):
    made = opened()
    yield made
    made.close()


@pytest.fixture
def station(module):
    return module.station()


def refusal(work, *arguments):
    with pytest.raises(PoolError) as raised:
        work(*arguments)
    return raised.value


# --- modules and tokens -----------------------------------------------------------------------------------


def test_every_token_is_logged_in_to(module):
    assert {one.place["token"] for one in module.tokens} == {kind.encode() for kind in KINDS}
    assert module.verdict() == (Code.OK, "")
    for one in module.tokens:
        assert str(one) == f"{one.uri} ready"
        assert parse_untrusted(one.uri).matches_place(one.place)


def test_only_the_tokens_that_are_meant(world):
    module = opened(parse_untrusted("pkcs11:token=ec"))
    assert [one.place["token"] for one in module.tokens] == [b"ec"]
    module.close()
    module = opened(parse_untrusted("pkcs11:token=nothing"))
    assert module.verdict() == (Code.TOKEN_GONE, "no token of this module matches")
    module.close()


@pytest.mark.parametrize(
    ("path", "said"),
    [("/nowhere.so", "cannot load /nowhere.so"), ("/usr/lib/x86_64-linux-gnu/libdl.so.2", "cannot load")],
)
def test_what_is_no_module(path, said):
    error = refusal(Module, path)
    assert error.code is Code.TOKEN_FAILED
    assert said in error.detail


def test_a_wrong_pin_is_tried_once_and_not_when_it_was_refused_before(world, monkeypatch):
    tries = []
    login = PyKCS11.Session.login
    monkeypatch.setattr(PyKCS11.Session, "login", lambda self, *a: (tries.append(1), login(self, *a)))
    wanted = parse_untrusted("pkcs11:token=ec")
    module = opened(wanted, "wrong")
    code, detail = module.verdict()
    assert (code, len(tries)) == (Code.PIN_WRONG, 1)
    assert detail.endswith("C_Login: CKR_PIN_INCORRECT")
    uri = module.tokens[0].uri
    assert str(module.tokens[0]) == f"{uri} PIN_WRONG"
    error = refusal(module.station().find, world.key("ec").uri)
    assert error.code is Code.PIN_WRONG
    module.close()
    module = opened(wanted, "wrong", [uri])
    assert (module.verdict()[0], len(tries)) == (Code.PIN_WRONG, 1)
    assert "not tried again" in module.verdict()[1]
    module.close()
    module = opened(wanted)
    assert (module.verdict()[0], len(tries)) == (Code.OK, 2)
    module.close()


def test_a_pin_that_was_typed_is_for_its_token_only(world):
    module = opened(pin="")
    ec, rsa = (next(one.uri for one in module.tokens if one.place["token"] == kind) for kind in (b"ec", b"rsa"))
    module.close()
    made = Module(slowtoken.SOFTHSM)
    made.open(parse_untrusted("pkcs11:"), b"", (), {ec: PIN.encode()})
    states = {one.uri: one.code for one in made.tokens}
    assert (states[ec], states[rsa]) == (Code.OK, Code.PIN_MISSING)
    made.close()


def test_no_pin(world):
    module = opened(pin="")
    assert module.verdict()[0] is Code.PIN_MISSING
    assert refusal(module.station().find, world.key("ec").uri).code is Code.PIN_MISSING
    module.close()


@pytest.mark.parametrize(
    ("flag", "code", "said"),
    [
        (PyKCS11.CKF_USER_PIN_LOCKED, Code.PIN_LOCKED, "CKF_USER_PIN_LOCKED"),
        (PyKCS11.CKF_USER_PIN_FINAL_TRY, Code.PIN_LAST_TRY, "CKF_USER_PIN_FINAL_TRY"),
    ],
)
def test_the_last_try_is_left_to_people(world, monkeypatch, flag, code, said):
    """SoftHSM never sets these flags, so they are put into what it says of its tokens."""
    tries = []
    info_of = PyKCS11.PyKCS11Lib.getTokenInfo

    def marked(self, slot):
        info = info_of(self, slot)
        info.flags |= flag
        return info

    monkeypatch.setattr(PyKCS11.PyKCS11Lib, "getTokenInfo", marked)
    monkeypatch.setattr(PyKCS11.Session, "login", lambda *_: tries.append(1))
    module = opened(parse_untrusted("pkcs11:token=ec"))
    assert module.verdict()[0] is code
    assert said in module.verdict()[1]
    assert tries == []
    module.close()


def test_one_token_with_trouble_does_not_hide_the_others(world):
    module = opened()
    bad = next(one.uri for one in module.tokens if one.place["token"] == b"rsa")
    module.close()
    other = opened(refused=[bad])
    assert other.verdict() == (Code.OK, "")
    assert other.station().find(world.key("ec").uri).kind is KeyKind.EC_P256
    assert refusal(other.station().find, world.key("rsa").uri).code is Code.PIN_WRONG
    other.close()


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_found_with_their_public_half(world, station, kind):
    for name in NAMES:
        known = world.key(kind, name)
        found = station.find(known.uri)
        assert (found.kind, found.spki, found.spki_sha256) == (KINDS[kind], known.spki, known.spki_sha256)
        assert station.find(known.uri) is found  # remembered


def test_uris_of_many_shapes(world, station):
    for uri in (
        "pkcs11:token=ec;id=%00%01",
        "pkcs11:token=ec;object=web;id=%00%01;type=private",
        "pkcs11:manufacturer=SoftHSM%20project;token=ec;object=web",
        "pkcs11:token=ec%00%00;object=web",
        "pkcs11:token=ec;object=web;x-vendor=anything",
    ):
        assert station.find(uri).spki == world.key("ec").spki, uri


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("pkcs11:token=ec;object=nothing", Code.KEY_NOT_FOUND),
        ("pkcs11:token=ec;object=", Code.KEY_NOT_FOUND),
        ("pkcs11:token=ec;id=%09", Code.KEY_NOT_FOUND),
        ("pkcs11:token=ec;object=web;id=%00%02", Code.KEY_NOT_FOUND),
        ("pkcs11:object=web", Code.KEY_AMBIGUOUS),
        ("pkcs11:token=nothing;object=web", Code.TOKEN_GONE),
        ("pkcs11:token=ec", Code.KEY_URI_MALFORMED),
        ("pkcs11:token=ec;object=web;type=public", Code.KEY_URI_MALFORMED),
        ("web", Code.KEY_URI_MALFORMED),
    ],
)
def test_keys_that_are_not_found(station, uri, code):
    assert refusal(station.find, uri).code is code


def test_the_list_of_keys(world, station):
    uris = station.list_keys()
    assert uris == sorted(uris)
    assert {station.find(uri).spki for uri in uris} == {world.key(k, n).spki for k in KINDS for n in NAMES}


def test_no_more_keys_are_remembered_than_there_is_room_for(world, station, module, monkeypatch):
    module.keys.clear()
    monkeypatch.setattr(token, "_KEYS", 2)
    for kind in KINDS:
        station.find(world.key(kind).uri)
    assert len(module.keys) <= 2


# --- signatures -----------------------------------------------------------------------------------------------


def test_another_key_than_the_certificates(world, station):
    other = world.key("ec", NAMES[1])
    error = refusal(station.sign, world.key("ec").uri, 0x0403, other.spki_sha256, CONTENT)
    assert error.code is Code.KEY_MISMATCH


@pytest.mark.parametrize(
    ("kind", "scheme"), [("ec", 0x0804), ("ec", 0x0807), ("rsa", 0x0403), ("ed25519", 0x0403), ("rsa", 0x0000)]
)
def test_schemes_that_do_not_fit(world, station, kind, scheme):
    key = world.key(kind)
    assert refusal(station.sign, key.uri, scheme, key.spki_sha256, CONTENT).code is Code.SCHEME_REFUSED


@pytest.fixture
def other_session(module):
    """A session of another application on token "ec"; SoftHSM shows its changes to other processes when it likes."""
    slot = next(one.slot for one in module.tokens if one.place["token"] == b"ec")
    session = module._library.openSession(slot, PyKCS11.CKF_SERIAL_SESSION | PyKCS11.CKF_RW_SESSION)
    yield session
    session.closeSession()


def test_a_key_that_another_program_deletes_and_makes_again(station, other_session):
    """Handles of objects do not survive that; the key is looked for once more."""
    uri = "pkcs11:token=ec;object=volatile"
    public, private, mechanism = token_keys._templates("ec", "volatile", b"77")

    def make():
        return other_session.generateKeyPair(public, private, mecha=mechanism)

    def delete(pair):
        for handle in pair:
            other_session.destroyObject(handle)

    pair = make()
    first = station.find(uri)
    assert station.sign(uri, 0x0403, first.spki_sha256, CONTENT)
    delete(pair)
    assert refusal(station.sign, uri, 0x0403, first.spki_sha256, CONTENT).code is Code.TOKEN_GONE
    pair = make()
    second = station.find(uri)
    assert second.spki != first.spki
    assert station.sign(uri, 0x0403, second.spki_sha256, CONTENT)
    delete(pair)
    pair = make()  # under the old URI, between two signatures
    assert refusal(station.sign, uri, 0x0403, second.spki_sha256, CONTENT).code is Code.KEY_MISMATCH
    delete(pair)


# --- names of errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rv", "name", "code"),
    [
        (0xA0, "CKR_PIN_INCORRECT", Code.PIN_WRONG),
        (0xA4, "CKR_PIN_LOCKED", Code.PIN_LOCKED),
        (0x32, "CKR_DEVICE_REMOVED", Code.TOKEN_GONE),
        (0xE0, "CKR_TOKEN_NOT_PRESENT", Code.TOKEN_GONE),
        (0x63, "CKR_KEY_TYPE_INCONSISTENT", Code.SCHEME_REFUSED),
        (0x05, "CKR_GENERAL_ERROR", Code.TOKEN_FAILED),
        (0x80000001, "CKR_0x80000001", Code.TOKEN_FAILED),
    ],
)
def test_return_values_have_names_and_codes(rv, name, code):
    assert ckr_name(rv) == name
    error = trouble(rv, "C_Call")
    assert (error.code, error.detail) == (code, f"C_Call: {name}")


def test_every_name_that_is_sorted_exists():
    names = {name for name in PyKCS11.CKR.values() if isinstance(name, str)} | set(PyKCS11.CKR)
    for group in (token._GONE, token._UNFIT, token._PIN_WRONG, token._LOST_HANDLE):
        assert group <= names
