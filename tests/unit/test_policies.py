"""Named crypto policies: what each says on the wire, and which one counts for a session."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL._util import lib

from tests.fixtures.helloview import view
from tlspool_broker import crypto
from tlspool_broker.validation import expression
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth, Side, StartSession
from tlspool_common.policies import DEFAULT, POLICIES, TLS12, TLS13
from tlspool_common.setting_errors import SettingError
from tlspool_common.settings import parse_untrusted
from tlspool_worker import lists
from tlspool_worker.contexts import Contexts
from tlspool_worker.trust import Generation

VECTORS = Path(__file__).parents[1] / "vectors" / "policies"
LISTS = ("groups", "sigalgs", "ciphers_tls12", "ciphersuites_tls13")


class Records:
    """Assignments, most specific first."""

    def __init__(self, **assigned):
        self.assigned = assigned

    def crypto_policy(self, service, localid):
        keys = (f"localid:{localid}", f"service:{service}", "host")
        return next((self.assigned[key] for key in keys if key in self.assigned), "")


def choose(config="", assigned=None, service="smtp", localid="mail.example"):
    return crypto.choose(parse_untrusted(config), Records(**(assigned or {})), service, localid)


def start_of(policy, side=Side.CLIENT):
    return StartSession(
        session_id=1,
        side=side,
        remote_auth=RemoteAuth.IGNORE,
        trust_generation=0,
        tls_min=policy.tls_min,
        tls_max=policy.tls_max,
        groups=policy.groups,
        ciphers_tls12=policy.ciphers_tls12,
        ciphersuites_tls13=policy.ciphersuites_tls13,
        sigalgs=policy.sigalgs,
        alpn=b"",
        sni="",
        remote_name="",
        domain_represents_user=False,
    )


def hello_of(policy):
    """Return the ClientHello that a worker sends under a policy."""
    context = Contexts().get(start_of(policy), (), Generation(0))
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65536)


@pytest.mark.parametrize("name", POLICIES)
def test_what_a_policy_means_on_the_wire(name):
    """The text in tests/vectors/policies was read by a person; what differs from it has to be read again."""
    found = view(hello_of(POLICIES[name]))
    expected = (VECTORS / f"{name}.hello.txt").read_text()
    assert found == expected


@pytest.mark.parametrize("name", POLICIES)
def test_and_what_none_of_them_offers(name):
    found = view(hello_of(POLICIES[name]))
    for weak in ("SM2", "sm2", "dsa_sha224", "sha224", "ffdhe", "brainpool", "x448", "ed448"):
        assert weak not in found
    for weak in ("CBC", "SHA1", "_sha1", "MD5", "RC4", "3DES", "NULL", "TLS_RSA_", "TLS_DHE_", "EXPORT", "unknown"):
        assert weak not in found
    versions = re.search(r"versions: +(.*)", found)[1].split()
    assert set(versions) <= {"1.3", "1.2"}
    if name == "pq-required":
        groups = re.search(r"groups: +(.*)", found)[1].split()
        assert groups
        assert all("MLKEM" in group for group in groups)
    if name == "fips-like":
        assert not re.search(r"x25519\b|X25519|CHACHA|ed25519|ed448|brainpool|x448|ffdhe", found)


def test_one_of_them_is_the_default():
    policy = POLICIES[DEFAULT]
    assert (policy.tls_min, policy.tls_max, policy.expression) == (TLS12, TLS13, "")
    assert policy.groups.startswith("?*X25519MLKEM768")


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_policy_is_whole(policy):
    assert POLICIES[policy.name] is policy
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,30}", policy.name)
    assert TLS12 <= policy.tls_min <= policy.tls_max <= TLS13
    assert policy.doc.endswith(".")
    assert all(getattr(policy, name) for name in LISTS)  # nothing is left to the library
    assert "DEFAULT" not in "".join(getattr(policy, name) for name in LISTS)
    if policy.expression:
        expression.parse(policy.expression)
    lists.check(parse_untrusted("".join(f"{setting} {getattr(policy, name)}\n" for name, setting in crypto._LISTS)))


ASSIGNED = {"localid:mail.example": "pq-required", "service:smtp": "fips-like", "host": "modern"}


@pytest.mark.parametrize(
    ("keys", "service", "localid", "expected"),
    [
        (ASSIGNED, "smtp", "mail.example", "pq-required"),
        (ASSIGNED, "smtp", "other.example", "fips-like"),
        (ASSIGNED, "smtp", "", "fips-like"),
        (ASSIGNED, "imap", "mail.example", "pq-required"),
        (ASSIGNED, "imap", "other.example", "modern"),
        (["host"], "", "", "modern"),
        ([], "smtp", "mail.example", "intermediate"),
    ],
)
def test_the_most_specific_assignment_counts(keys, service, localid, expected):
    assigned = {key: ASSIGNED[key] for key in keys}
    assert choose("tls_policy intermediate\n", assigned, service, localid).name == expected


def test_without_one_the_configuration_counts():
    assert choose("tls_policy modern\n").name == "modern"
    assert choose("tls_policy modern\n", {"host": "fips-like"}).name == "fips-like"


def test_lists_of_the_configuration_take_the_place_of_its_policys():
    config = "tls_groups X25519\ntls_sigalgs ed25519\ntls_ciphers12 ECDHE\ntls_ciphersuites13 TLS_AES_128_GCM_SHA256\n"
    for name in ("intermediate", "modern"):
        found = choose(config + f"tls_policy {name}\n")
        assert [getattr(found, name) for name in LISTS] == ["X25519", "ed25519", "ECDHE", "TLS_AES_128_GCM_SHA256"]
    assert choose("tls_groups X25519\n").sigalgs == POLICIES[DEFAULT].sigalgs
    assert choose("tls_groups \ntls_policy modern\n").groups == ""  # the library's, if it is said


def test_and_leave_an_assigned_policy_alone():
    assert choose("tls_groups X25519\n", {"host": "pq-required"}) == POLICIES["pq-required"]


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        ("tls_min_version 1.3\n", "intermediate", (TLS13, TLS13)),
        ("tls_max_version 1.2\n", "intermediate", (TLS12, TLS12)),
        ("tls_min_version 1.2\n", "modern", (TLS13, TLS13)),
        ("tls_min_version 1.3\n", "fips-like", (TLS13, TLS13)),
    ],
)
def test_versions_of_the_configuration_bound_every_policy(config, name, expected):
    for found in (choose(config, {"host": name}), choose(f"{config}tls_policy {name}\n")):
        assert (found.tls_min, found.tls_max) == expected


def test_a_policy_that_nothing_is_left_of():
    with pytest.raises(PoolError, match=r"modern, with tls_min_version 1\.2 and tls_max_version 1\.2") as caught:
        choose("tls_max_version 1.2\n", {"service:smtp": "modern"})
    assert caught.value.code is Code.POLICY_EMPTY


def test_a_policy_that_there_is_not():
    """It was assigned by a later version, or by hand: no other is taken in its place."""
    with pytest.raises(PoolError, match="'best'; there are intermediate") as caught:
        choose("", {"host": "best"})
    assert caught.value.code is Code.POLICY_UNKNOWN


@pytest.mark.parametrize(
    ("config", "assigned", "expected"),
    [
        ("", {}, ""),
        ("quantum_proof_encryption yes\n", {}, "q"),
        ("quantum_proof_handshake yes\n", {"host": "modern"}, "q"),
        ("quantum_proof_authentication yes\n", {}, "qQ&"),
        ("quantum_proof_authentication yes\ntls_policy modern\n", {}, "Q"),
        ("quantum_proof_authentication yes\nquantum_proof_encryption yes\n", {"host": "fips-like"}, "Q"),
    ],
)
def test_what_the_configuration_demands_of_every_policy(config, assigned, expected):
    found = choose(config, assigned)
    assert found.expression == expected
    if expected:
        expression.parse(expected)


@given(st.data())
def test_a_choice_is_a_policy_narrowed(data):
    names = st.sampled_from(sorted(POLICIES))
    keys = ("localid:mail.example", "service:smtp", "host")
    assigned = data.draw(st.dictionaries(st.sampled_from(keys), names))
    lowest, highest = data.draw(st.sampled_from([("1.2", "1.3"), ("1.3", "1.3"), ("1.2", "1.2")]))
    lines = f"tls_policy {data.draw(names)}\ntls_min_version {lowest}\ntls_max_version {highest}\n"
    try:
        found = choose(lines, assigned)
    except SettingError:
        return  # the configuration by itself leaves nothing
    except PoolError as error:
        assert error.code is Code.POLICY_EMPTY
        return
    expected = POLICIES[next((assigned[key] for key in keys if key in assigned), lines.split()[1])]
    assert found.name == expected.name
    assert expected.tls_min <= found.tls_min <= found.tls_max <= expected.tls_max
    assert all(getattr(found, name) == getattr(expected, name) for name in LISTS)


def test_a_list_that_openssl_does_not_take_is_named_with_its_line(tmp_path):
    path = tmp_path / "conf"
    path.write_text("tls_groups X25519\ntls_sigalgs nonsense\ntls_ciphers12 NONSENSE\n")
    with pytest.raises(SettingError) as caught:
        lists.load(path)
    assert [(one.line, one.keyword) for one in caught.value.problems] == [(3, "tls_ciphers12"), (2, "tls_sigalgs")]
    path.write_text("tls_groups X25519\n")
    assert lists.load(path).tls_groups == "X25519"


def test_a_client_and_a_server_under_two_policies_meet_where_they_overlap():
    """The policies among each other, by what their hellos offer: modern ones find post-quantum key exchange."""
    shared = {
        (one, other): bool(_groups(one) & _groups(other)) for one, other in itertools.combinations(sorted(POLICIES), 2)
    }
    assert all(shared.values()), shared


def _groups(name):
    return set(re.search(r"groups: +(.*)", view(hello_of(POLICIES[name])))[1].split())


def test_the_library_is_one_that_knows_them():
    """The texts are those of OpenSSL 4.0; an earlier one knows no ML-KEM and would not take pq-required."""
    assert lib.OpenSSL_version_num() >= 0x30500000
