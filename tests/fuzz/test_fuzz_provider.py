"""Invariants: see fuzz_provider.c; and the C parser accepts exactly the references that keyref.py accepts."""

import base64
import ctypes
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.native import NATIVE, ROOT, compile_c, shared
from tests.fuzz.corpus import make_provider
from tlspool_worker import keyref

HARNESS = ROOT / "tests" / "fuzz" / "fuzz_provider.c"
CORPUS = make_provider.HERE
SEEDS = sorted(CORPUS.iterdir())


def test_parsers_under_sanitizers(tmp_path):
    assert shutil.which("clang"), "clang is missing: apt install clang"
    sanitizers = ("-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", f"-I{NATIVE}")
    sources = (HARNESS, NATIVE / "reference.c", NATIVE / "signer.c")
    fuzzer = compile_c(tmp_path / "fuzz_provider", *sources, compiler="clang", flags=sanitizers)
    grown = tmp_path / "grown"
    grown.mkdir()
    options = ("-runs=200000", "-max_total_time=10", "-max_len=4096", "-seed=1", f"-artifact_prefix={tmp_path}/")
    done = subprocess.run([fuzzer, *options, grown, CORPUS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def parse_c(tmp_path_factory):
    """Return the C parser: DER in, verdict out (0: good)."""
    library = ctypes.CDLL(
        str(shared(tmp_path_factory.mktemp("native") / "reference.so", NATIVE / "reference.c", flags=("-O2",)))
    )
    room = ctypes.create_string_buffer(256)  # struct reference has 64 bytes
    return lambda der: library.reference_parse_untrusted(der, ctypes.c_size_t(len(der)), room)


def accepted_by_python(der):
    try:
        keyref.decode_untrusted(keyref.armour(der))
    except ValueError:
        return False
    return True


def rewrap(chance, der):
    """Change the body, but leave the DER around it right, so that changes reach the fields."""
    inner = 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)
    start = inner + 2 + (der[inner + 1] & 0x7F if der[inner + 1] & 0x80 else 0)
    body = mutate(chance, der[start:])
    return keyref._element(0x30, keyref._element(0x04, body))


def mutate(chance, data):
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = (
            chance.randrange(min(len(changed), 24) + 1) if chance.random() < 0.7 else chance.randrange(len(changed) + 1)
        )
        manner = chance.randrange(4)
        if manner == 0 and at < len(changed):
            changed[at] = chance.choice((0, 1, 2, 3, 4, 5, 0x7F, 0x80, 0x81, 0x82, 0xFF, chance.randrange(256)))
        elif manner == 1:
            del changed[at : at + chance.randint(1, 4)]
        elif manner == 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 4))
        elif at < len(changed):
            changed[at] = (changed[at] + chance.choice((-1, 1))) % 256
    return bytes(changed)


def test_c_and_python_agree(parse_c):
    chance = random.Random(1101)
    seeds = [path.read_bytes()[1:] for path in SEEDS if path.name.startswith("der-") and path.stat().st_size > 9]
    good = 0
    for number in range(20_000):
        seed = chance.choice(seeds)
        der = rewrap(chance, seed) if number % 2 else mutate(chance, seed)
        in_python = accepted_by_python(der)
        assert (parse_c(der) == 0) is in_python, der.hex()
        good += in_python
    assert 500 < good < 19_500  # both verdicts were tried


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_corpus_is_of_this_version(path, parse_c):
    kind, data = path.read_bytes()[:1], path.read_bytes()[1:]
    if kind == b"P":
        text = data[data.index(keyref.BEGIN) :].partition(keyref.END)[0] + keyref.END
        data = base64.b64decode(b"".join(text.splitlines()[1:-1]))
    if kind in b"DP" and path.name not in ("der-other-version", "der-empty"):
        assert parse_c(data) == 0
        assert accepted_by_python(data)
    assert Path(path).name in dict(make_provider.entries())
