"""What keyd signs and what not: every vector, every condition of the code, and how often an honest handshake loses."""

import ast
import json
import random
import sys
import types
from pathlib import Path

import pytest

from tests.vectors.recognise import captured, shapes
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side
from tlspool_keyd import lookalikes, recognise
from tlspool_keyd.recognise import Recognised, recognise_untrusted

VECTORS = Path(__file__).parents[1] / "vectors" / "recognise"
FIELDS = {"accepted": {"side", "scheme", "what", "note"}, "refused": {"side", "scheme", "why", "note"}}


def load(folder):
    """Return (path, content, side, scheme, expectation) of each vector."""
    found = []
    for path in sorted((VECTORS / folder).glob("*.json")):
        case = json.loads(path.read_text())
        assert set(case) == FIELDS[folder], path.name
        content = path.with_suffix(".bin").read_bytes()
        found.append((path, content, Side[case["side"].upper()], int(case["scheme"], 16), case))
    return found


ACCEPTED, REFUSED = load("accepted"), load("refused")


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: vector[0].stem)
def test_accepted(vector):
    _, content, side, scheme, case = vector
    assert recognise_untrusted(content, side, scheme).value == case["what"]


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector[0].stem)
def test_refused(vector):
    _, content, side, scheme, case = vector
    with pytest.raises(PoolError) as caught:
        recognise_untrusted(content, side, scheme)
    assert caught.value.code is Code.CONTENT_REFUSED
    assert caught.value.detail == case["why"]


def test_the_vectors_are_whole_and_many():
    names = {path.stem for path in VECTORS.glob("*/[0-9]*.bin")}
    assert names == {path.stem for path, *_ in ACCEPTED + REFUSED}
    assert len({content for _, content, *_ in REFUSED}) >= 400
    assert len({case["why"] for *_, case in REFUSED}) >= 100
    assert {case["what"] for *_, case in ACCEPTED} == {each.value for each in Recognised}
    assert sum(path.stat().st_size for path in VECTORS.rglob("*.*")) < 1_500_000


def test_nothing_that_is_refused_is_accepted_elsewhere():
    """Only what is bound to a role or a scheme may pass with another one."""
    bound = ("by-server", "by-client", "tls13", "scheme")
    for path, content, *_ in REFUSED:
        if any(word in path.stem for word in bound):
            continue
        for side in Side:
            for scheme in (0x0403, 0x0804, 0x0807, 0x0401):
                with pytest.raises(PoolError):
                    recognise_untrusted(content, side, scheme)


def test_roles_and_kinds_are_apart():
    """No accepted content is accepted in the other role."""
    for path, content, side, scheme, _ in ACCEPTED:
        other = Side.CLIENT if side is Side.SERVER else Side.SERVER
        with pytest.raises(PoolError):
            pytest.fail(f"{path.name}: {recognise_untrusted(content, other, scheme)}")


def test_real_handshakes_of_now():
    """The programs of this host, not only those that the vectors were made with."""
    for case in (captured.CASES[5], captured.CASES[-1]):
        for side, (scheme, content) in zip((Side.SERVER, Side.CLIENT), captured.run(case), strict=True):
            assert recognise_untrusted(content, side, scheme)


# --- every condition ------------------------------------------------------------------------------------------------


class Marker(ast.NodeTransformer):
    """Wrap each condition in a call that notes its value."""

    def __init__(self):
        self.conditions = []

    def _mark(self, node):
        if isinstance(node, ast.BoolOp):
            node.values = [self._mark(value) for value in node.values]
            return node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node.operand = self._mark(node.operand)
            return node
        self.conditions.append(f"line {node.lineno}: {ast.unparse(node)}")
        number = ast.Constant(len(self.conditions) - 1)
        return ast.Call(ast.Name("_saw", ast.Load()), [number, node], [])

    def visit_If(self, node):
        self.generic_visit(node)
        node.test = self._mark(node.test)
        return node

    visit_While = visit_IfExp = visit_If  # noqa: N815 (ast's names)

    def visit_Return(self, node):
        self.generic_visit(node)
        if isinstance(node.value, (ast.BoolOp, ast.Compare)):
            node.value = self._mark(node.value)
        return node


def instrument(module):
    """Return a twin of the module, its conditions, and the set of (number, value) that it fills when used."""
    marker, seen = Marker(), set()
    tree = ast.fix_missing_locations(marker.visit(ast.parse(Path(module.__file__).read_text())))

    def saw(number, value):
        seen.add((number, bool(value)))
        return value

    twin = types.ModuleType(module.__name__)
    twin._saw = saw
    exec(compile(tree, module.__file__, "exec"), twin.__dict__)
    return twin, marker.conditions, seen


def test_vectors_make_every_condition_true_and_false(monkeypatch):
    looks, looks_conditions, looks_seen = instrument(lookalikes)
    monkeypatch.setitem(sys.modules, "tlspool_keyd.lookalikes", looks)
    monkeypatch.setattr(sys.modules["tlspool_keyd"], "lookalikes", looks)
    twin, conditions, seen = instrument(recognise)
    for _, content, side, scheme, case in ACCEPTED + REFUSED:
        try:
            assert twin.recognise_untrusted(content, side, scheme).value == case.get("what")
        except PoolError as error:
            assert error.detail == case.get("why")
    for name, all_conditions, found in (("recognise", conditions, seen), ("lookalikes", looks_conditions, looks_seen)):
        assert len(all_conditions) > 15, name
        missing = [
            f"{name} {text} was never {value}"
            for number, text in enumerate(all_conditions)
            for value in (True, False)
            if (number, value) not in found and text.partition(": ")[2] != "True"
        ]
        assert not missing, "\n".join(missing)


# --- honest handshakes ------------------------------------------------------------------------------------------------


def honest(chance):
    """An X25519 ServerKeyExchange; a public key is as good as random below the prime."""
    key = (chance.getrandbits(255) % (2**255 - 19)).to_bytes(32, "little")
    return chance.randbytes(64) + b"\3\0\x1d\x20" + key


def test_honest_key_exchanges_pass():
    chance = random.Random(8422)
    for _ in range(50_000):
        recognise_untrusted(honest(chance), Side.SERVER, 0x0804)


def test_honest_key_exchanges_are_refused_once_in_a_million():
    """As that is too seldom to count, force what each test looks at first, and weigh it with its probability."""
    chance = random.Random(1000003)

    def refused(prefixes, runs=60_000):
        """Fraction refused among those that begin with one of the prefixes."""
        count = 0
        for _ in range(runs):
            prefix = chance.choice(prefixes)
            count += lookalikes.name_of(prefix + honest(chance)[len(prefix) :]) != ""
        return count / runs

    tags = [b"\x30", b"\x31"]
    in_short_form = refused([tag + b"\x62" for tag in tags]) * 2 / 2**16
    in_long_form = refused([tag + form for tag in tags for form in (b"\x81\x61", b"\x82\0\x60")]) * 2 / 2**16 / 2**8
    in_long_tag = refused([bytes((0x3F, number, 0x61)) for number in range(128)]) / 2**17
    others = refused([b"\x7f\x4e\x61"]) / 2**24 + 1 / 2**24  # and GSS: tag, length, and the tag of an OID
    text = 4 * (98 / 256) ** 18
    count = 2 * 101 / 2**32
    rate = in_short_form + in_long_form + in_long_tag + others + text + count
    print(f"refused: one in {1 / rate:,.0f}; BER {in_short_form + in_long_form + in_long_tag:.2g}, text {text:.2g}")
    assert 1 / 3_000_000 < rate < 1 / 500_000


def test_points_are_those_of_the_groups():
    """The constants, held against another implementation: keys of all groups pass, their neighbours do not."""
    chance = random.Random(800186)
    for group in shapes.GROUPS.values():
        for _ in range(20):
            public = shapes.point(chance, group)
            recognise._check_point(group, public)
            if group in shapes.CURVES:
                with pytest.raises(PoolError, match="not on its curve"):
                    recognise._check_point(group, public[:-1] + bytes([public[-1] ^ 1]))
