"""Remotes that are right and wrong in every way, under policies that mind and that do not: a table of what comes of it.

Each case is one session of our client or our server with OpenSSL's or GnuTLS's tools: the code that the application
got, the alert that the remote saw, and the sentence by which `tlspool explain` says why.  Policy is edited while the
pool runs.  The table is printed at the end of the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests import report
from tests.fixtures.pki import Leaf
from tests.fixtures.pki_cases import BARE, CASES, crypto_policy, expression
from tests.fixtures.pki_peers import PEERS
from tests.fixtures.pki_world import NAME, World, b64

TITLE = "remotes and policies"

VERSIONS = {("client", "openssl"): "1.3", ("client", "gnutls"): "1.2", ("server", "openssl"): "1.2"}
"""Both versions in both roles."""

UNREADABLE = ("client", "gnutls", "1.3")
"""OpenSSL's client sends its alert in the clear until it has answered the server's flight; GnuTLS's server expects it
to be encrypted by then, and only says that it cannot decrypt it."""


UNDECIDED, TRIES = 412, 8
"""A helper that starts, or is slow because the machine is busy, leaves a session undecided; the next one finds what it
has found out meanwhile.  A server that never answers is another matter: that is an answer, too."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("matrix")) as made:
        yield made


@pytest.fixture(scope="module")
def leaves(world):
    """The same certificate for the same case, whoever shows it."""
    made: dict[str, Leaf] = {}

    def find(side: str, options: Mapping[str, object]) -> Leaf:
        options = dict(options)
        if options.pop("revoked", False):
            return world.on_file
        pki = getattr(world, options.pop("of", "pki"))
        if options.get("usage") == "other":
            options["usage"] = (side,)  # the remote's role is the other one
        key = f"{pki.root.serial_number} {options}"
        if key not in made:
            made[key] = pki.leaf(options.pop("name", NAME), options.pop("kind", "p256"), **options)
        return made[key]

    return find


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(len(PEERS) * 2) as made:
        yield made


@pytest.fixture(autouse=True)
def as_at_first(world):
    yield
    world.reset()


def run(world, case, side, peer, leaf, staple, generation):
    """Have one session as the case says; return what is wrong with it."""
    version = case.version or VERSIONS.get((side, peer.name), "1.3")
    seen = (side, peer.name, version) != UNREADABLE
    options = {"version": version, "staple": staple, "seen": seen and case.alert, **case.options}
    for _ in range(TRIES):
        outcome = world.session(side, peer, leaf, **options)
        if not (outcome.code == UNDECIDED and "has been asked yet" in outcome.sentence):
            break
    note(case.name, side, f"{peer.name} {version}", outcome, seen)
    right = outcome.code == case.code and re.search(case.sentence, outcome.sentence)
    right = right and (not seen or outcome.alert == case.alert) and outcome.account["generation"] == generation
    right = right and not outcome.gives_away
    return None if right else f"{side} {peer.name} {version}: {outcome}; the remote said: {outcome.said[-400:]}"


def note(name, side, peer, outcome, seen=True):
    """Write a line of the table."""
    verdict = f"refused {outcome.code}" if outcome.code else "accepted"
    alert = (outcome.alert or "none") if seen else "unreadable"
    report.row(TITLE, name, f"our {side}", peer, verdict, alert if outcome.code else "", outcome.sentence)


@pytest.mark.parametrize("case", [pytest.param(one, id=f"{one.name} {one.version}".strip()) for one in CASES])
def test_case(world, leaves, threads, case):
    """In our roles that it is about, with both kinds of software, at once."""
    shown = {side: None if case in BARE else leaves(side, case.leaf) for side in case.sides}
    operations = []
    for side, leaf in shown.items():
        operations += [one for edit in case.edits for one in edit(world, side, leaf) if one not in operations]
    generation = world.edit(operations)
    status = getattr(case, "status", None)
    jobs = [
        threads.submit(run, world, case, side, peer, leaf, status and status(world, leaf), generation)
        for side, leaf in shown.items()
        for peer in PEERS
    ]
    wrong = [job.result() for job in jobs]
    assert not any(wrong), "\n\n".join(filter(None, wrong))


# --- what takes more than one session ---------------------------------------------------------------------


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("side", ["client", "server"])
def test_trust_on_first_use(world, side, peer):
    """The first certificate is pinned, comes again, and no other one gets in; whoever has issued them."""
    world.edit([expression(side, "p")])
    first, other = world.stranger.leaf(NAME), world.pki.leaf(NAME)
    version = VERSIONS.get((side, peer.name), "1.3")

    def comes(leaf, what):
        outcome = world.session(side, peer, leaf, version=version)
        note(f"{what}, under p", side, f"{peer.name} {version}", outcome)
        return outcome

    assert comes(first, "first use").code == 0
    [pin] = world.control("trust.pins", remote=NAME)["pins"]
    assert pin["sha256"] == first.sha256
    [change] = world.control("history", number=1)["history"]
    assert change["author"] == "tlspool-broker"
    assert "first use" in change["reason"]
    generation = world.generation
    assert comes(first, "second use").code == 0
    assert world.generation == generation
    outcome = comes(other, "another certificate")
    assert (outcome.code, outcome.alert) == (410, "bad_certificate"), outcome
    assert not outcome.gives_away
    assert "p is false: pinned for" in outcome.sentence


@pytest.mark.parametrize(
    ("name", "operations", "code"),
    [
        ("hybrid group, under q", [expression("client", "q")], 0),
        ("hybrid group, policy pq-required", [crypto_policy("client", "pq-required")], 0),
        ("hybrid group, classical certificate, under Q", [expression("client", "Q")], 415),
        ("TLS 1.3, policy fips-like", [crypto_policy("client", "fips-like")], 0),
    ],
)
def test_with_ourselves(world, name, operations, code):
    """The neighbours have no post-quantum key exchange; another pool has."""
    world.edit(operations)
    outcome = world.with_ourselves()
    note(name, "client", "our server", outcome)
    assert outcome.code == code, outcome
    if code:
        assert "Q is false: the key of the leaf is ec" in outcome.sentence


def test_our_server_staples(world):
    """An OCSP response for our own certificate, which the helper has got; clients of both kinds look at it."""
    path = world.pool.directory / "certs" / "localhost.pem"
    certificate = world.pki.certify(
        "localhost", x509.load_pem_x509_certificate(path.read_bytes()), responder="/ours.ocsp"
    )
    world.web.answers["/ours.ocsp"] = world.pki.status(certificate)
    uri = next(one["uri"] for one in world.control("localid.get", id="localhost")["records"] if "uri" in one)
    chain = [b64(certificate.public_bytes(Encoding.DER)), b64(world.pki.issuer_der)]
    flags = ["x509", "client", "server", "chained"]
    world.control("localid.set", id="localhost", flags=flags, records=[{"uri": uri, "chain": chain}])
    for peer in PEERS:
        for version in ("1.2", "1.3"):
            assert world.is_stapled(peer, version), (peer.name, version)
            heard = "the client hears that our certificate is good"
            report.row(TITLE, "stapled by us", "our server", f"{peer.name} {version}", "accepted", "", heard)
