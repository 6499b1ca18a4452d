"""Several findings made one."""

import itertools

import pytest

from tlspool_common.messages import Finding
from tlspool_online.verdicts import one_of, together

GOOD, REVOKED, UNKNOWN = Finding.GOOD, Finding.REVOKED, Finding.UNKNOWN
BAD, NONE, ABSENT = Finding.BAD, Finding.NONE, Finding.ABSENT


def of(*findings, each=False):
    return together([(finding, f"says {finding.name}", 0) for finding in findings], each=each)


@pytest.mark.parametrize(
    ("findings", "whole", "culprit"),
    [
        ((GOOD,), GOOD, "certificate 0: says GOOD"),
        ((GOOD, GOOD), GOOD, "certificate 0: says GOOD; certificate 1: says GOOD"),
        ((GOOD, ABSENT), GOOD, "certificate 0: says GOOD"),
        ((GOOD, REVOKED), REVOKED, "certificate 1: says REVOKED"),
        ((REVOKED, GOOD), REVOKED, "certificate 0: says REVOKED"),
        ((NONE, REVOKED), REVOKED, "certificate 1: says REVOKED"),
        ((GOOD, NONE), NONE, "certificate 1: says NONE"),
        ((GOOD, UNKNOWN), UNKNOWN, "certificate 1: says UNKNOWN"),
        ((GOOD, NONE, BAD), BAD, "certificate 2: says BAD"),
        ((ABSENT, GOOD), ABSENT, "certificate 0: says ABSENT"),
        ((ABSENT, NONE), NONE, "certificate 1: says NONE"),
        ((ABSENT, ABSENT), ABSENT, "certificate 0: says ABSENT"),
    ],
)
def test_a_chain(findings, whole, culprit):
    assert of(*findings) == (whole, culprit)


def test_a_chain_of_which_each_certificate_counts():
    assert of(GOOD, ABSENT, each=True) == (ABSENT, "certificate 1: says ABSENT")
    assert of(GOOD, GOOD, each=True)[0] is GOOD
    assert of(ABSENT, NONE, each=True)[0] is NONE


def test_a_chain_is_good_only_if_nobody_says_otherwise():
    for findings in itertools.product(Finding, repeat=3):
        whole, detail = of(*findings)
        assert (whole is GOOD) == (findings[0] is GOOD and set(findings) <= {GOOD, ABSENT})
        assert (whole is REVOKED) == (REVOKED in findings)
        assert whole.name in detail
        assert (of(*findings, each=True)[0] is GOOD) == (set(findings) == {GOOD})


def test_a_chain_of_one():
    assert together([], each=True) == (NONE, "a chain of one certificate: there is nobody to ask")


def test_several_places():
    assert one_of([(NONE, "a", 0), (BAD, "b", 0), (UNKNOWN, "c", 5)]) == (BAD, "b", 0)
    assert one_of([(UNKNOWN, "a", 7), (NONE, "b", 0), (UNKNOWN, "c", 5)]) == (UNKNOWN, "a; c", 7)
    assert one_of([]) == (ABSENT, "", 0)
