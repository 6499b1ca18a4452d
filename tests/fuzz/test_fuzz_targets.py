"""Every target of targets.py in the test run; its invariant is in its own words there.  And: none is missing."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import native, reached
from tests.fuzz.target import endless_mutants, findings_of, mutants, seeds_of
from tests.fuzz.targets import BY_NAME, ELSEWHERE, TARGETS

pytestmark = [
    # The library warns of odd certificates; what else there is to warn of stays an error.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestWarning"),
]

SOON_S = 5.0
"""For the longest inputs: they take a tenth of that; what is quadratic takes minutes."""

MUTANTS_S = 0.1
"""Of processor time, for each target."""

FINDINGS = [(target, path) for target in TARGETS for path in findings_of(target.name)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutants(target):
    @settings(
        max_examples=target.mutants,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutants(target))
    def hold(data):
        target.check(data)

    hold()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_more_mutants(target):
    """As many as there is time for: ten times what hypothesis does in it, and the same ones each time."""
    taken = number = 0
    end_s = time.process_time() + MUTANTS_S
    for number, data in enumerate(endless_mutants(target)):
        try:
            taken += target.check(data)
        except BaseException as error:
            error.add_note(f"number {number}: {data!r}")
            raise
        if time.process_time() > end_s:
            break
    if number > 1000:
        assert taken, "no mutant was taken"
        assert target.takes_all or taken < number, "no mutant was refused"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_worth_something(target):
    """A target that takes none of its seeds would be fuzzed at its front door only."""
    assert target.invariant.endswith(".")
    found = [target.check(seed) for seed in seeds_of(target)]
    assert sum(found) * 8 >= len(found) > 0
    assert max(map(len, seeds_of(target))) <= max(target.most_b, target.limit_b)
    refused = [data for data in (b"", b"\xff\0\xfe garbage \x80") if not target.check(data)]
    assert target.takes_all or refused


@pytest.mark.parametrize(("target", "path"), FINDINGS, ids=lambda value: getattr(value, "name", None))
def test_what_was_found_is_mended(target, path):
    target.check(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_long_inputs_are_done_with_soon(target):
    longest_b = max(target.most_b, target.limit_b)
    head = b"".join(seeds_of(target))[:1]
    for piece in (*target.tokens, *filter(None, seeds_of(target)[:3]), b"(", b" ", b"\0"):
        repeated = piece * (longest_b // len(piece) or 1)
        for data in (repeated, head + repeated):
            begun_s = time.process_time()
            target.check(data[:longest_b])
            assert time.process_time() - begun_s < SOON_S, piece


# --- none is missing ------------------------------------------------------------------------------------


def test_every_reader_has_a_target():
    """If this fails for a function of yours: the head of targets.py says how to add a target."""
    declared = reached.declared()
    assert len(declared) > 140
    found = reached.reached(TARGETS)
    assert not declared - found - ELSEWHERE.keys(), "no seed of a target in tests/fuzz/targets.py reaches these"
    assert not found & ELSEWHERE.keys(), "a target reaches these by now"


def test_what_is_tested_elsewhere_is_there():
    assert not ELSEWHERE.keys() - reached.declared()
    for path in ELSEWHERE.values():
        assert (reached.ROOT / path).exists()


def test_every_reader_in_c_has_a_harness():
    harnesses = "".join((Path(__file__).parent / each.harness).read_text() for each in native.TARGETS)
    assert {name for name in reached.declared_in_c() if name not in harnesses} == native.ELSEWHERE.keys()


def test_names():
    names = [target.name for target in (*TARGETS, *native.TARGETS)]
    assert len(names) == len(set(names)) == len(BY_NAME) + len(native.TARGETS)
