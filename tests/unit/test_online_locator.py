"""Where certificates may send us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_online.locator import BadLocator, Locator, parse_untrusted, redirected_untrusted, refusal

LOCAL, PRIVATE = "is this host (setting online_private)", "is private (setting online_private)"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://crl.example.com/a.crl", Locator("crl.example.com", 80, "/a.crl")),
        ("http://CRL.Example.COM", Locator("crl.example.com", 80, "/")),
        ("HTTP://example.com:8080/a?b=c/d", Locator("example.com", 8080, "/a?b=c/d")),
        ("http://example.com/a#fragment", Locator("example.com", 80, "/a")),
        ("http://192.0.2.1/a", Locator("192.0.2.1", 80, "/a")),
        ("http://[2001:db8::1]:8080/a", Locator("2001:db8::1", 8080, "/a")),
        ("http://example.com/%7Ea/", Locator("example.com", 80, "/%7Ea/")),
    ],
)
def test_urls_that_are_followed(url, found):
    assert parse_untrusted(url, (80, 8080)) == found


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://example.com/", "only http is asked, not https"),
        ("ldap://example.com/cn=x", "not ldap"),
        ("file:///etc/passwd", "not file"),
        ("//example.com/", "only http"),
        ("", "printable"),
        ("http://exa mple.com/", "printable"),
        ("http://example.com/\r\nX: y", "printable"),
        ("http://example.com/ü", "printable"),
        ("http://user:pass@example.com/", "names a user"),
        ("http://example.com@127.0.0.1/", "names a user"),
        ("http://example.com\\@127.0.0.1/", "names a user"),
        ("http://example.com\\a/", "no URL"),
        ("http://example.com:25/", "port 25"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:99999/", "no URL"),
        ("http://example.com:x/", "no URL"),
        ("http:///a", "no host name"),
        ("http://-/", "no host name"),
        ("http://a%41/", "no host name"),
        ("http://[::1%25lo]/", "scope"),
        ("http://[fe80::1/", "no URL"),
        ("http://[v1.x]/", "no"),
        ("http://example.com/" + "a" * 500, "at most 512"),
    ],
)
def test_urls_that_are_not(url, why):
    with pytest.raises(BadLocator, match=why):
        parse_untrusted(url, (80, 8080))


def test_the_authority_of_a_host_field():
    assert parse_untrusted("http://a.example/x", (80,)).authority == "a.example"
    assert parse_untrusted("http://a.example:81/x", (81,)).authority == "a.example:81"
    assert parse_untrusted("http://[::1]:81/x", (81,)).authority == "[::1]:81"
    assert parse_untrusted("http://[::1]:81/x?y", (81,)).url == "http://[::1]:81/x?y"


def test_redirections():
    base = parse_untrusted("http://a.example/x/y", (80,))
    assert redirected_untrusted(base, "/z", (80,)) == Locator("a.example", 80, "/z")
    assert redirected_untrusted(base, "z?q", (80,)) == Locator("a.example", 80, "/x/z?q")
    assert redirected_untrusted(base, "http://b.example", (80,)) == Locator("b.example", 80, "/")
    for where in (
        "https://a.example/",
        "gopher://a/",
        "http://a.example:22/",
        "http://u@a/",
        "\n",
        "http://[x",
        "a" * 600,
    ):
        with pytest.raises(BadLocator):
            redirected_untrusted(base, where, (80,))


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("8.8.8.8", "", ""),
        ("2606:4700::1", "", ""),
        ("64:ff9b::808:808", "", ""),  # NAT64 of 8.8.8.8
        ("127.0.0.1", LOCAL, ""),
        ("127.255.255.254", LOCAL, ""),
        ("::1", LOCAL, ""),
        ("::ffff:127.0.0.1", LOCAL, ""),
        ("64:ff9b::7f00:1", LOCAL, ""),
        ("2002:7f00:1::", LOCAL, ""),
        ("10.1.1.1", PRIVATE, ""),
        ("172.31.0.1", PRIVATE, ""),
        ("192.168.0.1", PRIVATE, ""),
        ("100.64.0.1", PRIVATE, ""),
        ("198.18.0.1", PRIVATE, ""),
        ("::ffff:10.0.0.1", PRIVATE, ""),
        ("fd00:ec2::254", PRIVATE, ""),
        ("fec0::1", PRIVATE, ""),
        ("2001:db8::1", PRIVATE, ""),
        *(
            (address, why, why)
            for address, why in (
                ("0.0.0.0", "is unspecified"),
                ("0.1.2.3", "is unspecified"),
                ("::", "is unspecified"),
                ("::ffff:0.0.0.0", "is unspecified"),
                ("169.254.169.254", "is link-local"),
                ("::ffff:169.254.169.254", "is link-local"),
                ("64:ff9b::a9fe:a9fe", "is link-local"),
                ("2002:a9fe:a9fe::1", "is link-local"),
                ("fe80::1", "is link-local"),
                ("fe80::1%eth0", "is link-local"),
                ("224.0.0.1", "is multicast"),
                ("ff02::1", "is multicast"),
                ("255.255.255.255", "is reserved"),
                ("240.0.0.1", "is reserved"),
                ("::7f00:1", "is reserved"),
                ("", "is no address"),
                ("example.com", "is no address"),
            )
        ),
    ],
)
def test_addresses(address, public, private):
    assert refusal(address, False) == public
    assert refusal(address, True) == private


@given(st.text(max_size=80) | st.from_regex(r"http://[!-~]{0,60}", fullmatch=True))
def test_whatever_is_followed_is_a_name_a_port_and_a_target(url):
    try:
        found = parse_untrusted(url, (80,))
    except BadLocator:
        return
    assert found.port == 80 and found.host and found.target.startswith("/")
    assert not set(found.host + found.target) & set(" \r\n\t#@\\") - {"@"}
    assert parse_untrusted(found.url, (80,), 2048) == found


@given(st.ip_addresses())
def test_what_is_refused_in_a_private_network_is_refused_in_a_public_one(address):
    if refusal(str(address), True):
        assert refusal(str(address), False)
