"""Invariant: each parser of what comes from outside returns, or raises its one exception type, whatever it is given.

And where a value has a written form, what was read is written and read again the same.
"""

import json
import random
from dataclasses import dataclass

import pytest

from tlspool_common import appwire, control, grants, identity, servicewire, settings
from tlspool_common.appwire import PAYLOAD_B, BadPayload
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side
from tlspool_common.settings import SettingError
from tlspool_keyd import pkcs11uri

RUNS = 15_000
SECRET = bytes(range(32))
KEY = bytes(range(16))


@dataclass(frozen=True)
class Target:
    """A parser: what it reads, what good input looks like, and the one way in which it refuses."""

    name: str
    parse: object
    seeds: tuple
    error: type
    code: Code | None = None
    again: object = None
    alphabet: str = ""
    keeps_length: bool = False


def _grant(**changes):
    fields = {
        "grant_id": bytes(16),
        "worker_id": 1,
        "session_id": 2,
        "side": Side.SERVER,
        "expires_ms": 3,
        "spki_sha256": bytes(32),
        "key_uri": "pkcs11:object=a",
    }
    return grants.Grant(**{**fields, **changes})


def _unseal_resealed(data):
    """Seal anything, as only keyd and the broker can: then the reader behind the seal is what is tried."""
    return grants.unseal_untrusted(SECRET, data + grants.hmac.digest(SECRET, data, "sha256"))


def _payload(kind):
    """Payloads are always whole: frame_untrusted sees to that."""
    return lambda data: kind.from_payload_untrusted(data[:PAYLOAD_B].ljust(PAYLOAD_B, b"\0"))


def _rewrite(found):
    return type(found).from_payload_untrusted(found.to_payload().ljust(PAYLOAD_B, b"\0"))


PAYLOADS = (
    appwire.Ping(),
    appwire.ErrorReply(5, "what happened"),
    appwire.Starttls(7, 8, localid="a@b.example", remoteid="c.example", ctlkey=KEY, service="imap", timeout_ms=1),
    appwire.Options(KEY, b"\2h2\x08http/1.1"),
    appwire.Details(KEY, 1, 0x304, 1, False, "TLS_AES_128_GCM_SHA256", "X25519", b"h2", "CN=x"),
    appwire.Control(KEY, 0, "name"),
    appwire.Prng(4, -1, 16, KEY + b"abcd"),
    appwire.Info(KEY, 3, b"data"),
    appwire.Info(KEY, 3, None),
    servicewire.Pinentry(1, 2, 3, "1234", "PIN?", "manufacturer", "model", "serial", "label"),
    servicewire.Lidentry(1, 2, 3, "a@b.example", "c.example"),
)
CONFIGURATION = (
    "# comment\nrun_dir /run/x\nsocket_mode 0660\npkcs11_path /a.so\npkcs11_token pkcs11:token=t\nworkers 3\n"
    "tls_min_version 1.2\ntls_ciphers12 ECDHE+AESGCM\nhandshake_timeout_s 1.5\nallow_facilities starttls, *\n"
    "isolation pool\nldap_proxy x\nbroker_user 0\n"
)
TARGETS = (
    Target(
        "pkcs11uri.parse_untrusted",
        pkcs11uri.parse_untrusted,
        (
            "pkcs11:model=SoftHSM%20v2;serial=0a;token=t;id=%A1%00;object=a%40b;type=private",
            "pkcs11:library-version=2.6;slot-id=7;slot-description=x;v-1=%20?v-q=/a&v-r=b",
        ),
        PoolError,
        Code.KEY_URI_MALFORMED,
        again=lambda uri: pkcs11uri.parse_untrusted(str(uri)),
        alphabet=";=%?&:/pkcs11tokenidtypeslot-0123456789abcdefAZ é\0\n\udc80٣",
    ),
    Target(
        "grants.unseal_untrusted",
        lambda data: grants.unseal_untrusted(SECRET, data),
        (grants.seal(SECRET, _grant()),),
        PoolError,
        Code.GRANT_REFUSED,
    ),
    Target(
        "grants.unseal_untrusted behind a good seal",
        _unseal_resealed,
        (grants.seal(SECRET, _grant())[:-32], grants.seal(SECRET, _grant(side=Side.CLIENT, key_uri="é"))[:-32]),
        PoolError,
        Code.GRANT_REFUSED,
        again=lambda grant: grants.unseal_untrusted(SECRET, grants.seal(SECRET, grant)),
    ),
    Target(
        "identity.parse_untrusted",
        identity.parse_untrusted,
        ("john@example.com", "bücher.example", "x@[2001:db8::1]", "10.0.0.1", "a.b.c.d.example.", "*.example.com"),
        PoolError,
        Code.IDENTITY_MALFORMED,
        again=lambda donai: identity.parse_untrusted(str(donai)),
        alphabet="@.*:[]%-_xn--aZ09 éßςıİK\u0301\u200d\0\n\udc80\u2488\u3002。①",
    ),
    Target(
        "identity.parse_selector_untrusted",
        identity.parse_selector_untrusted,
        ("@.example.com", ".", "@.", "john@.", "@example.com", ".com"),
        PoolError,
        Code.IDENTITY_MALFORMED,
        again=lambda donai: identity.parse_selector_untrusted(str(donai)),
        alphabet="@.*:[]%-_xn--aZ09 éßςıİK\u0301\u200d\0\n\udc80\u2488\u3002。①",
    ),
    Target(
        "control.request_untrusted",
        control.request_untrusted,
        (
            b"status now\n",
            b'{"cmd": "localid.set", "id": "a", "flags": ["x", {"y": 1e9}], "n": null}\n',
            b'{"cmd": "' + b"[" * 3000,
            b'{"cmd":"x","n":' + b"9" * 5000 + b"}",
            b'{"cmd":' + b'{"a":' * 2000,
        ),
        PoolError,
        Code.FIELD_MALFORMED,
        alphabet='{}[]",:\\u00e9truefalsn0123456789.eE+- \t\nNaInity',
    ),
    Target(
        "settings.parse_untrusted",
        settings.parse_untrusted,
        (CONFIGURATION,),
        SettingError,
        Code.SETTING_INVALID,
        alphabet="# \n\r\t/0123456789.,*:=+-@!abcxyzé\0\udc80٣",
    ),
    *[
        Target(
            f"appwire.{type(seed).__name__}.from_payload_untrusted",
            _payload(type(seed)),
            (seed.to_payload(),),
            BadPayload,
            again=_rewrite,
        )
        for seed in PAYLOADS
    ],
    Target("appwire.frame_untrusted", appwire.frame_untrusted, (bytes(appwire.FRAME_B),), BadPayload),
    Target("appwire.alpn_split_untrusted", appwire.alpn_split_untrusted, (b"\2h2\x08http/1.1",), BadPayload),
)


def mutate(chance, seed, alphabet):
    """Change, remove, insert, double and cut; text with characters that matter to its reader."""
    is_text = isinstance(seed, str)
    data = list(seed)

    def unit():
        if is_text or (alphabet and chance.random() < 0.8):
            drawn = chance.choice(alphabet)
            return drawn if is_text else ord(drawn) & 0xFF
        return chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))

    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data) + 1)
        manner = chance.randrange(6)
        if manner == 0 and at < len(data):
            data[at] = unit()
        elif manner == 1:
            del data[at : at + chance.randint(1, 6)]
        elif manner == 2:
            data[at:at] = [unit() for _ in range(chance.randint(1, 6))]
        elif manner == 3:
            data[at:at] = data[at : at + chance.randint(1, 40)]
        elif manner == 4 and chance.random() < 0.1:
            data = data[:at]
        elif at < len(data) and not is_text:
            data[at] ^= 1 << chance.randrange(8)
    return "".join(data) if is_text else bytes(data)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_one_exception_type(target):
    chance = random.Random(target.name)
    good = bad = 0
    for seed in target.seeds:
        for number in range(RUNS // len(target.seeds)):
            data = mutate(chance, seed, target.alphabet) if number else seed
            try:
                found = target.parse(data)
            except target.error as error:
                assert target.code is None or error.code is target.code, data
                bad += 1
                continue
            except Exception as error:
                pytest.fail(f"{type(error).__name__}: {error} for {data!r}")
            good += 1
            if target.again is not None:
                assert target.again(found) == found, data
    name = target.name.split(".")[1]
    takes_anything = {"ErrorReply", "Prng"}  # any 380 bytes are one
    assert good or target.name.startswith("control"), "no mutant was read"
    assert bad or name in takes_anything, "no mutant was refused"


def test_a_request_is_read_in_bounded_time():
    """Numbers and nesting are where JSON readers are slow or fall over."""
    for line in (b'{"cmd":"x","n":' + b"9" * 4000 + b"}", b'{"cmd":"x","n":' + b"[" * 100_000, b"[" * 500_000):
        try:
            request, for_people = control.request_untrusted(line)
        except PoolError as error:
            assert error.code is Code.FIELD_MALFORMED
        else:
            assert for_people or json.dumps(request)
