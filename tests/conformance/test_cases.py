"""Every case of the table, played against a real pool; and that the table has a case for every point."""

import importlib
import inspect
from pathlib import Path

import pytest

from tests.conformance import script
from tests.conformance.stage import Stage
from tests.conformance.table import SECTIONS
from tests.conformance.wires import Identities
from tlspool_admin.devpool import DevPool

ROOT = Path(__file__).parents[2]
CASES = [case for section in SECTIONS for case in section.cases]


@pytest.fixture
def pool(request, pools, tmp_path_factory):
    """The pool of a case, which is there before descriptors are counted."""
    name = request.node.callspec.params["case"].pool
    if name != "pinless":
        yield pools(name)
        return
    # a token that has got its PIN once needs none again, so each case has its own
    made = DevPool(tmp_path_factory.mktemp("c") / "p")
    made.up("ec", ["log_level debug"], knows_pin=False)
    yield made, Identities(made)
    made.down()


@pytest.mark.parametrize("case", CASES, ids=[f"{case.section}: {case.name}" for case in CASES])
def test_case(pool, no_leaks, case, record_property):
    for point in case.covers:
        record_property("point", point)
    stage = Stage(*pool)
    failure = None
    try:
        stage.play(case.script)
        stage.end()
    except AssertionError as error:
        failure = str(error)  # the line of the case, which says more than ours
    finally:
        stage.close()
    if failure is not None:
        pytest.fail(failure, pytrace=False)


def test_every_point_has_a_case_or_says_why_not():
    points = {name: point for section in SECTIONS for name, point in section.points.items()}
    covered = {name for case in CASES for name in case.covers}
    assert covered <= set(points), covered - set(points)
    without = {name for name, point in points.items() if not (point.elsewhere or point.not_applicable)}
    assert without <= covered, without - covered
    both = {name for name, point in points.items() if point.not_applicable} & covered
    assert not both


def test_what_is_elsewhere_is_there():
    for section in SECTIONS:
        for name, point in section.points.items():
            if point.elsewhere:
                path, _, test = point.elsewhere.partition("::")
                module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
                assert inspect.isfunction(getattr(module, test, None)), (name, point.elsewhere)
                assert (ROOT / path).exists()


def test_bad_input_is_told_apart():
    """Each case of that section names the stable code it expects; they are many, and of one meaning each."""
    steps = [step for case in CASES if case.section.startswith("17-") for _, step in script.parse(case.script)]
    errors = [step for step in steps if isinstance(step, script.Frame) and not step.sent and step.cmd == "ERROR"]
    assert all(step.fields["code"] for step in errors)
    told = {step.fields["code"]: step.fields["errno"] for step in errors}
    assert all(told[step.fields["code"]] == step.fields["errno"] for step in errors)
    assert len(told) >= 29, sorted(told)


def test_names_are_unique():
    names = [(case.section, case.name) for case in CASES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "line",
    ["a> NOSUCH 1", "a> PING 1 nofield=1", "a< ERROR 1 NOSUCH", "a> PING 1 stray"],
)
def test_a_line_that_is_not_in_the_language(line):
    with pytest.raises(script.BadScript):
        steps = script.parse(line)
        pytest.fail(f"it was taken: {steps}")
