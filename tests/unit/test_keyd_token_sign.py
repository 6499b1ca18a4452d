"""The two signing calls: mechanisms, forms of signatures, and that other threads go on meanwhile."""

import ctypes
import hashlib
import os
import threading
import time

import pytest

from tests.fixtures import libcrypto, slowtoken
from tests.fixtures.keyd_world import PIN, KeydWorld
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind
from tlspool_keyd import token_sign
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.schemes import BY_NUMBER, TABLE, Form
from tlspool_keyd.token import Module
from tlspool_keyd.token_sign import FITS, CryptokiError, Signer

CONTENT = b"content"
KIND = {Form.PKCS1: KeyKind.RSA, Form.PSS: KeyKind.RSA, Form.ECDSA: KeyKind.EC_P256, Form.EDDSA: KeyKind.ED25519}


def test_every_form_has_a_key_and_every_key_a_form():
    assert {form for forms in FITS.values() for form in forms} == set(Form)
    assert set(FITS) == set(KeyKind)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.scheme.name)
def test_mechanisms(row):
    mechanism, data, keep = token_sign._prepare(KIND[row.form], row, CONTENT)
    digest = hashlib.new(row.hash_name, CONTENT).digest() if row.hash_name else b""
    if row.form is Form.PSS:
        assert mechanism.mechanism == 0x0D
        numbers = ctypes.cast(mechanism.parameter, ctypes.POINTER(ctypes.c_ulong * 3)).contents
        wanted = {"sha256": (0x250, 2), "sha384": (0x260, 3), "sha512": (0x270, 4)}[row.hash_name]
        assert tuple(numbers) == (*wanted, len(digest))
        assert mechanism.parameter_b == ctypes.sizeof(numbers)
        assert keep is not None
        assert data == digest
    else:
        assert (mechanism.parameter, mechanism.parameter_b) == (None, 0)
        number = {Form.PKCS1: 0x01, Form.ECDSA: 0x1041, Form.EDDSA: 0x1057}[row.form]
        assert mechanism.mechanism == number
        if row.form is Form.PKCS1:
            assert data.endswith(digest)
            assert data[0] == 0x30
        elif row.form is Form.ECDSA:
            assert data == digest[:32]
        else:
            assert data == CONTENT


def test_a_hash_longer_than_the_order_is_cut():
    _, data, _ = token_sign._prepare(KeyKind.EC_P384, BY_NUMBER[0x0603], CONTENT)
    assert data == hashlib.sha512(CONTENT).digest()[:48]


def test_what_is_no_module():
    with pytest.raises(OSError, match="nowhere"):
        Signer("/nowhere.so")
    with pytest.raises(AttributeError):
        Signer("libc.so.6")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A module that takes 200 ms, and does what the file ``order`` says."""
    directory = tmp_path_factory.mktemp("s")
    world = KeydWorld(directory, {"ec": "ec"})
    order = directory / "order"
    wanted = {**world.environment, **slowtoken.environment(200, order)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    module = Module(str(slowtoken.build(directory)))
    module.open(parse_untrusted("pkcs11:"), PIN.encode(), ())
    yield module, world.key("ec"), order
    module.close()
    libcrypto.forget_errors()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def test_other_threads_go_on_while_the_token_works(slow):
    module, key, _ = slow
    module.station().find(key.uri)
    signatures, ticks = [], 0
    threads = [
        threading.Thread(
            target=lambda: signatures.append(module.station().sign(key.uri, 0x0403, key.spki_sha256, CONTENT))
        )
        for _ in range(8)
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ticks += 1
    spent = time.monotonic() - begun
    assert len(signatures) == 8
    assert 0.2 <= spent < 0.9  # one after the other they would take 1.6 s
    assert ticks > 1000


@pytest.mark.parametrize(("value", "code"), [("0x5", Code.TOKEN_FAILED), ("0x32", Code.TOKEN_GONE)])
def test_a_failed_call_is_named_and_the_session_replaced(slow, value, code):
    module, key, order = slow
    station = module.station()
    order.write_text(value)
    try:
        with pytest.raises(PoolError) as raised:
            station.sign(key.uri, 0x0403, key.spki_sha256, CONTENT)
    finally:
        order.unlink()
    assert raised.value.code is code
    assert raised.value.detail.startswith("C_Sign: CKR_")
    # C_SignInit was done and C_Sign was not: in the old session this would be CKR_OPERATION_ACTIVE
    assert station.sign(key.uri, 0x0403, key.spki_sha256, CONTENT)


def test_a_session_that_is_none(slow):
    module, key, _ = slow
    handle = module.station().find(key.uri).handle
    with pytest.raises(CryptokiError) as raised:
        module._signer.sign(0xDEAD, handle, KeyKind.EC_P256, BY_NUMBER[0x0403], CONTENT)
    assert raised.value.call == "C_SignInit"
