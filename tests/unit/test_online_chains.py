"""Chains: whose certificates they are, and where their issuers say to ask."""

import pytest
from cryptography import x509

from tests.fixtures.authority import Authority
from tlspool_online import bounds
from tlspool_online.chains import BadChain, Chains, identity_of, links_untrusted

ROOT = Authority("Root")
CA = ROOT.authority("CA", crl="http://r.example/r.crl", ocsp="http://r.example/o")


def point(*names, issuer=None):
    return x509.DistributionPoint(list(names) or None, None, None, [issuer] if issuer else None)


def test_links():
    leaf = CA.leaf("x", crl=["http://a/1", "http://b/2"], ocsp=["http://o/1", "http://o/2"])
    first, second = links_untrusted(leaf.chain)
    assert (first.certificate, first.issuer) == (leaf.certificate, CA.certificate)
    assert (first.list_urls, first.responder_urls) == (("http://a/1", "http://b/2"), ("http://o/1", "http://o/2"))
    assert (first.fault, first.elsewhere, first.is_authority, second.is_authority) == ("", False, False, True)
    assert second.issuer_id == identity_of(ROOT.certificate) != first.issuer_id
    assert second.list_urls == ("http://r.example/r.crl",)
    assert links_untrusted(ROOT.chain) == links_untrusted(()) == ()


def test_places_that_are_not_asked():
    ldap, url = x509.UniformResourceIdentifier("ldap://a/cn=x"), x509.UniformResourceIdentifier("HTTP://a/1")
    directory = x509.DirectoryName(ROOT.certificate.subject)
    for crl, urls, elsewhere in (
        ([point(ldap)], (), True),
        ([point(ldap, url)], ("HTTP://a/1",), False),
        ([point(directory)], (), True),
        ([point(url, issuer=directory)], (), True),
        ([point(issuer=directory)], (), True),
        ([point(x509.UniformResourceIdentifier(f"http://a/{n}")) for n in range(9)], None, False),
    ):
        (link, _) = links_untrusted(CA.leaf("x", crl=crl).chain)
        assert link.elsewhere is elsewhere
        assert len(link.list_urls) == 4 if urls is None else link.list_urls == urls


def test_who_has_issued_it():
    stranger = Authority("CA")
    leaf = CA.leaf("x")
    (link,) = links_untrusted((leaf.der, stranger.der))
    assert link.fault == "it is not issued by the next certificate"
    (link,) = links_untrusted((leaf.der, ROOT.der))
    assert link.fault


def test_the_same_authority_by_another_certificate():
    again = Authority("CA", ROOT, key=CA.key)
    assert identity_of(again.certificate) == identity_of(CA.certificate)
    assert identity_of(Authority("CA").certificate) != identity_of(CA.certificate)


def test_what_is_no_certificate():
    with pytest.raises(BadChain, match="certificate 0"):
        links_untrusted((b"", CA.der))
    with pytest.raises(BadChain, match="certificate 1"):
        links_untrusted((CA.der, b"x"))


def test_chains_are_kept(monkeypatch):
    chains = Chains()
    leaves = [CA.leaf(f"x{n}").chain for n in range(3)]
    first = chains.links_untrusted(leaves[0])
    assert chains.links_untrusted(leaves[0]) is first
    monkeypatch.setattr(bounds, "CHAINS", 2)
    chains.links_untrusted(leaves[1])
    assert chains.links_untrusted(leaves[0]) is first
    chains.links_untrusted(leaves[2])  # drops 1, which was used longest ago
    assert chains.links_untrusted(leaves[0]) is first
    with pytest.raises(BadChain):
        chains.links_untrusted((b"", b""))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_number_that_is_none():
    serial = CA.leaf("x", serial=0x1122334455)
    odd = serial.der.replace(bytes.fromhex("02051122334455"), bytes.fromhex("02059122334455"))
    (link,) = links_untrusted((odd, CA.der))
    assert link.fault == "its serial number is not positive"
