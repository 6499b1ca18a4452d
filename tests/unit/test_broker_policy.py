"""What is decided about a STARTTLS, question by question."""

from dataclasses import replace

import pytest

from tests.playbook.broker import FakeRecords, broken_database, credential
from tlspool_broker import briefing, policy
from tlspool_broker.events import FdKind, PassedFd
from tlspool_broker.policy import NOTHING_ASKED, Asks, Plan, Terms
from tlspool_common.appwire import Cmd, Flag, Starttls
from tlspool_common.errors import TABLE, Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import EndReason, HandshakeDone, Proceed, RemoteAuth, SessionEnded, Side
from tlspool_common.policies import POLICIES
from tlspool_common.settings import parse_untrusted as settings

SERVER, CLIENT = 0x6, 0x9
SETTINGS = settings("")


def code_of(function, *args):
    with pytest.raises(PoolError) as caught:
        function(*args)
    return caught.value.code


@pytest.mark.parametrize(
    ("lines", "granted"),
    [
        ("", 1),
        ("allow_facilities starttls\n", 1),
        ("allow_facilities startgss startssh\n", 0),
        ("allow_facilities \n", 0),
        ("deny_facilities starttls\n", 0),
        ("deny_facilities *\n", 0),
        ("deny_facilities startgss\n", 1),
        ("allow_facilities *\ndeny_facilities startssh,starttls\n", 0),
    ],
)
def test_facilities(lines, granted):
    assert policy.facilities(settings(lines)) == granted


@pytest.mark.parametrize("local", range(4))
@pytest.mark.parametrize("remote", range(4))
def test_roles(local, remote):
    """All sixteen: a local role counts only if the remote may have the other one."""
    client = bool(local & 1 and remote & 2)
    server = bool(local & 2 and remote & 1)
    flags = local | remote << 2
    assert policy.is_peer(flags) is (client and server)
    if client or server:
        assert policy.side_of(flags) is (Side.CLIENT if client else Side.SERVER)  # a peer is a client to begin with
    else:
        assert code_of(policy.side_of, flags) is Code.ROLE_IMPOSSIBLE


@pytest.mark.parametrize("flag", [Flag.DTLS, Flag.IGNORE_CACHES, Flag.FORK, Flag.DETACH, 0x80000000])
def test_flags_that_change_nothing_here(flag):
    policy.check_form(SERVER | flag, PassedFd(OwnedFd(-1), FdKind.STREAM), SETTINGS)


@pytest.mark.parametrize(
    ("flags", "auth"),
    [
        (0, RemoteAuth.REQUIRE),
        (Flag.REQUEST_REMOTEID, RemoteAuth.REQUEST),
        (Flag.IGNORE_REMOTEID, RemoteAuth.IGNORE),
        (Flag.IGNORE_REMOTEID | Flag.REQUEST_REMOTEID, RemoteAuth.IGNORE),
    ],
)
def test_how_much_the_remote_must_prove(flags, auth):
    request = Starttls(flags=SERVER | flags, localid="localhost", remoteid="john@example.com")
    plan = policy.make_plan(request, FakeRecords())
    assert plan.remote_auth is auth
    assert plan.expected == (None if auth is RemoteAuth.IGNORE else parse_untrusted("john@example.com"))


@pytest.mark.parametrize(
    ("remoteid", "flags", "sni"),
    [
        ("WWW.example.com", 0, "www.example.com"),
        ("john@example.com", 0, "example.com"),
        ("www.example.com", Flag.WITHOUT_SNI, ""),
        ("192.0.2.1", 0, ""),
        ("2001:db8::1", 0, ""),
        ("*.example.com", 0, ""),
        ("b\u00fccher.example", 0, "xn--bcher-kva.example"),
    ],
)
def test_the_name_a_client_sends(remoteid, flags, sni):
    request = Starttls(flags=CLIENT | flags, remoteid=remoteid)
    assert policy.make_plan(request, FakeRecords()).sni == sni


def test_identities_are_brought_in_normal_form():
    plan = policy.make_plan(Starttls(flags=SERVER, localid="LocalHost."), FakeRecords())
    assert str(plan.localid) == "localhost"


def test_a_client_says_who_it_is_to_those_who_prove_who_they_are():
    records = FakeRecords()
    ignoring = CLIENT | Flag.IGNORE_REMOTEID
    plan = policy.make_plan(Starttls(flags=CLIENT, remoteid="www.example.com"), records)
    assert str(plan.localid) == "me.example"
    plan = policy.make_plan(Starttls(flags=ignoring, remoteid="www.example.com"), records)
    assert (plan.localid, plan.credentials) == (None, ())
    request = Starttls(flags=ignoring, remoteid="www.example.com", localid="me.example")
    assert code_of(policy.make_plan, request, records) is Code.LOCALID_NOT_DISCLOSED
    policy.make_plan(Starttls(flags=ignoring), records)  # and need not even say whom it expects


def test_the_first_disclosed_identity_that_can_be_used_is_taken():
    records = FakeRecords()
    records.disclosures["www.example.com"] = ["gone.example", "bad..name", "unknown.example", "me.example"]
    original = records.credentials

    def credentials(donai, side):
        if str(donai) == "gone.example":
            raise PoolError(Code.RECORD_MALFORMED, "gone")
        return original(donai, side)

    records.credentials = credentials
    plan = policy.make_plan(Starttls(flags=CLIENT, remoteid="www.example.com"), records)
    assert str(plan.localid) == "me.example"


def test_a_broken_database_is_not_taken_for_nothing_disclosed():
    records = FakeRecords()

    def credentials(_donai, _side):
        raise broken_database()

    records.credentials = credentials
    assert code_of(policy.make_plan, Starttls(flags=CLIENT, remoteid="www.example.com"), records) is Code.DATABASE


ASK = Flag.LOCALID_CHECK


def test_an_application_that_wants_to_be_asked_gets_candidates_and_no_credentials_yet():
    records = FakeRecords()
    records.disclosures["www.example.com"] = ["me.example", "bad..name", "gone.example", "second.example"]
    records.identities["second.example", Side.CLIENT] = [credential("second.example")]
    made = policy.make_plan(Starttls(flags=CLIENT | ASK, remoteid="www.example.com"), records)
    assert (made.candidates, made.credentials) == (("me.example", "second.example"), ())
    made = policy.make_plan(Starttls(flags=SERVER | ASK, localid="localhost"), records)
    assert (made.candidates, str(made.localid), made.credentials) == (("localhost",), "localhost", ())
    made = policy.make_plan(Starttls(flags=SERVER | ASK), records)
    assert (made.candidates, made.localid) == ((), None)
    made = policy.make_plan(Starttls(flags=CLIENT, remoteid="www.example.com"), records)
    assert made.candidates == ()


def test_what_is_allowed_goes_before_what_there_is():
    def nothing(side, localid):
        raise PoolError(Code.ACCESS_DENIED, f"{localid} as {side.name}")

    records = FakeRecords()
    for request in (
        Starttls(flags=SERVER, localid="localhost"),
        Starttls(flags=SERVER, localid="nobody.example"),
        Starttls(flags=CLIENT, remoteid="www.example.com"),
        Starttls(flags=CLIENT, remoteid="www.example.com", localid="me.example"),
        Starttls(flags=CLIENT, remoteid="nobody.example"),
        Starttls(flags=CLIENT | ASK, remoteid="www.example.com"),
    ):
        assert code_of(policy.make_plan, request, records, nothing) is Code.ACCESS_DENIED
    policy.make_plan(Starttls(flags=SERVER | ASK), records, nothing)  # it is asked when it is known who we are


def test_a_name_that_the_application_answers_for():
    other = plan(localid="other.example")
    assert code_of(policy.judge_hello, other, "www.example.com") is Code.SNI_MISMATCH
    policy.judge_hello(replace(other, answers_to="www.example.com"), "www.example.com")
    assert code_of(policy.judge_hello, replace(other, answers_to="a.example"), "b.example") is Code.SNI_MISMATCH


@pytest.mark.parametrize(
    ("cmd", "kind", "code"),
    [
        (Cmd.ERROR, FdKind.STREAM, 109),
        (Cmd.STARTTLS_LOCALID, FdKind.STREAM, 109),
        (Cmd.PLAINTEXT_CONNECT, None, 107),
        (Cmd.PLAINTEXT_CONNECT, FdKind.OTHER, 108),
        (Cmd.PLAINTEXT_CONNECT, FdKind.POOL, 108),
        (Cmd.PLAINTEXT_CONNECT, FdKind.STREAM, None),
        (Cmd.PLAINTEXT_CONNECT, FdKind.SEQPACKET, None),
    ],
)
def test_the_plaintext_descriptor(cmd, kind, code):
    passed = kind and PassedFd(OwnedFd(-1), kind)
    if code is None:
        assert policy.plaintext_of(cmd, passed) is passed.fd
    else:
        assert code_of(policy.plaintext_of, cmd, passed) == code


@pytest.mark.parametrize(("asked", "ms"), [(0, 40_000), (1, 1), (0xFFFFFFFE, 0xFFFFFFFE), (0xFFFFFFFF, None)])
def test_timeouts(asked, ms):
    assert policy.handshake_timeout_ms(Starttls(timeout_ms=asked), SETTINGS) == ms


def test_what_a_worker_is_told():
    request = Starttls(flags=CLIENT | Flag.DOMAIN_REPRESENTS_USER, remoteid="j@example.com")
    plan = policy.make_plan(request, FakeRecords())
    modern = POLICIES["modern"]
    start = briefing.start_message(7, plan, b"\x02h2", 3, Terms(modern), Asks(True, False, True))
    assert (start.session_id, start.trust_generation, start.alpn) == (7, 3, b"\x02h2")
    assert (start.tls_min, start.tls_max, start.groups, start.sigalgs) == (
        0x0304,
        0x0304,
        modern.groups,
        modern.sigalgs,
    )
    assert (start.ciphers_tls12, start.ciphersuites_tls13) == (modern.ciphers_tls12, modern.ciphersuites_tls13)
    assert (start.remote_name, start.sni, start.domain_represents_user) == ("j@example.com", "example.com", True)
    assert (start.asks, start.tells_chain, start.wants_staple, start.peer) == (True, False, True, False)
    assert start.names_anchors
    assert not briefing.start_message(7, plan, b"", 3, Terms(modern), NOTHING_ASKED, 300).asks
    assert not briefing.start_message(7, plan, b"", 3, Terms(modern, False), NOTHING_ASKED).names_anchors


def test_what_a_worker_is_told_when_its_session_goes_on():
    assert briefing.proceed_message(7, None) == Proceed(session_id=7)
    for name, names_anchors in (("modern", True), ("intermediate", False)):
        crypto = POLICIES[name]
        proceed = briefing.proceed_message(7, Terms(crypto, names_anchors))
        assert (proceed.session_id, proceed.names_anchors) == (7, names_anchors)
        for each in ("tls_min", "tls_max", "groups", "ciphers_tls12", "ciphersuites_tls13", "sigalgs"):
            assert getattr(proceed, each) == getattr(crypto, each)


def plan(side=Side.SERVER, auth=RemoteAuth.REQUIRE, localid="localhost", expected=None, represents=False):
    return Plan(
        side=side,
        remote_auth=auth,
        localid=parse_untrusted(localid) if localid else None,
        expected=parse_untrusted(expected) if expected else None,
        sni="",
        credentials=(credential(),),
        domain_represents_user=represents,
    )


@pytest.mark.parametrize(
    ("localid", "sni", "good"),
    [
        ("localhost", "localhost", True),
        ("localhost", "LOCALHOST", True),
        ("localhost", "", True),
        ("john@localhost", "localhost", True),
        ("localhost", "localhost.", False),
        ("localhost", "a.localhost", False),
        ("192.0.2.1", "", True),
        ("", "localhost", False),
    ],
)
def test_names_of_ours(localid, sni, good):
    if good:
        policy.judge_hello(plan(localid=localid), sni)
    else:
        assert code_of(policy.judge_hello, plan(localid=localid), sni) is Code.SNI_MISMATCH


def facts(verified=True, names=("dns:www.example.com",), digest=bytes(32), sni=""):
    return HandshakeDone(
        session_id=1,
        tls_version=0x0304,
        cipher="",
        group="",
        alpn=b"",
        sni=sni,
        remote_verified=verified,
        remote_names=names,
        remote_subject="",
        remote_sha256=digest,
    )


@pytest.mark.parametrize(
    ("a_plan", "the_facts", "outcome"),
    [
        (plan(), facts(), "www.example.com"),
        (plan(), facts(names=("dns:*.example.com", "email:John@example.com")), "john@example.com"),
        (plan(), facts(names=()), ""),
        (plan(), facts(False), Code.CHAIN_UNTRUSTED),
        (plan(), facts(False, digest=b""), Code.CERTIFICATE_MISSING),
        (plan(auth=RemoteAuth.REQUEST), facts(), "www.example.com"),
        (plan(auth=RemoteAuth.REQUEST), facts(False), Code.CHAIN_UNTRUSTED),
        (plan(auth=RemoteAuth.REQUEST), facts(False, digest=b""), ""),
        (plan(auth=RemoteAuth.IGNORE), facts(False), ""),
        (plan(auth=RemoteAuth.IGNORE), facts(), ""),
        (plan(expected="www.example.com"), facts(), "www.example.com"),
        (plan(expected="www.example.org"), facts(), Code.NAME_MISMATCH),
        (plan(expected="a.example.com"), facts(names=("dns:*.example.com",)), "a.example.com"),
        (plan(expected="j@www.example.com"), facts(), Code.NAME_MISMATCH),
        (plan(expected="j@www.example.com", represents=True), facts(), "j@www.example.com"),
        (plan(auth=RemoteAuth.REQUEST, expected="a.example"), facts(False, digest=b""), ""),
        (plan(), facts(sni="elsewhere.example"), Code.SNI_MISMATCH),
        (plan(auth=RemoteAuth.IGNORE), facts(sni="elsewhere.example"), Code.SNI_MISMATCH),
        (plan(Side.CLIENT, expected="www.example.com"), facts(sni="anything"), "www.example.com"),
    ],
)
def test_who_the_remote_is(a_plan, the_facts, outcome):
    if isinstance(outcome, Code):
        assert code_of(policy.judge_remote, a_plan, the_facts) is outcome
    else:
        assert policy.judge_remote(a_plan, the_facts) == outcome


def test_another_name_than_the_expected_one_that_was_accepted():
    expects = plan(expected="www.example.org")
    assert code_of(policy.judge_remote, expects, facts()) is Code.NAME_MISMATCH
    assert policy.judge_remote(expects, facts(), accepted=True) == "www.example.com"
    assert policy.judge_remote(expects, facts(names=()), accepted=True) == ""
    assert policy.judge_remote(plan(expected="www.example.com"), facts(), accepted=True) == "www.example.com"


@pytest.mark.parametrize("reason", EndReason)
def test_ends_before_there_is_a_plaintext(reason):
    known = {EndReason.REMOTE_RESET: 304, EndReason.REMOTE_ALERT: 302, EndReason.ORDERED: 603}
    expected = known.get(reason, 303)
    ended = SessionEnded(session_id=1, reason=reason, from_remote_b=0, to_remote_b=0, detail="x")
    assert policy.lost_before_plaintext(ended).code == expected


def test_alerts_are_of_tls():
    """RFC 8446 section 6: those with a meaning for the remote, and none for the others."""
    known = {42, 44, 45, 46, 48, 49, 71, 80, 112, 116, policy.NO_ALERT}
    assert {policy.alert_for(code) for code in TABLE} == known
    assert policy.alert_for(Code.CALLER_GONE) == policy.NO_ALERT
    assert policy.alert_for(Code.CHAIN_UNTRUSTED) == 48  # unknown_ca
    assert policy.alert_for(Code.REVOKED) == 44  # certificate_revoked
    assert policy.alert_for(Code.NOT_POST_QUANTUM) == 71  # insufficient_security
    assert policy.alert_for(Code.BAD_CALLBACK_ANSWER) == 49  # access_denied: the application said no
    assert policy.alert_for(Code.RADIUS_REJECTED) == 49
    assert policy.alert_for(Code.RADIUS_ANONYMOUS) == 49
    assert policy.alert_for(Code.RADIUS_UNANSWERED) == 80  # internal_error: it is no fault of the remote


@pytest.mark.parametrize("code", TABLE)
def test_what_an_application_may_read(code):
    told = policy.told(code, "detail", 42)
    assert told in ("detail", "alert 42 bad_certificate", "")
    of_its_own = {
        Code.RADIUS_REJECTED,
        Code.RADIUS_UNUSED,
        Code.ACCOUNT_FOREIGN,
        Code.ACCOUNT_UNKNOWN,
        Code.ACCOUNT_EXISTS,
    }
    assert (told == "detail") == ((code // 100 in (1, 2, 6) and code is not Code.DATABASE) or code in of_its_own)
    assert (told == "alert 42 bad_certificate") == (code // 100 == 3)
    assert policy.told(code, "detail") in ("detail", "")
