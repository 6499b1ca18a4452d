"""Invariant: see fuzz_recognise.py, of which this runs some twenty seconds; and that it would find what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import fuzz_recognise, oracle_recognise
from tests.unit.test_recognise import ACCEPTED, REFUSED
from tlspool_common.errors import Code, PoolError
from tlspool_keyd import lookalikes, recognise

RUNS = 300_000


def test_mutants():
    script = Path(fuzz_recognise.__file__)
    command = [sys.executable, str(script), "--runs", str(RUNS), "--seed", "9261"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    last = done.stdout.rpartition("\r")[2]
    refused = int(re.search(r"refused ([0-9,]+)", last)[1].replace(",", ""))
    accepted = dict(re.findall(r"'(tls1[a-z0-9-]+)': ([0-9]+)", last))
    assert len(accepted) == 3, last
    assert refused + sum(map(int, accepted.values())) == RUNS
    assert all(int(count) > RUNS // 100 for count in accepted.values()), last  # mutants go deep


@pytest.mark.parametrize("vector", ACCEPTED + REFUSED, ids=lambda vector: vector[0].stem)
def test_the_oracle_knows_the_vectors(vector):
    _, content, side, scheme, case = vector
    assert oracle_recognise.verdict(content, side.name.lower(), scheme) == case.get("what", "")


def nothing(*_):
    return None


FAULTS = {
    "no other format is known": (lookalikes, "name_of", lambda _content: ""),
    "BER is not known": (lookalikes, "is_ber", lambda _content: False),
    "OpenPGP is not known": (lookalikes, "_is_openpgp", lambda _content: False),
    "DNSSEC is not known": (lookalikes, "_is_dnssec", lambda _content: False),
    "any bytes are a point": (recognise, "_check_point", nothing),
    "the end is not looked at": (recognise._Cursor, "end", nothing),
    "certificates may be anything": (recognise, "_certificates", nothing),
    "too much is BER": (lookalikes, "is_ber", lambda content: content[0] == 0x30),
    "another exception": (recognise, "_extensions", lambda cursor: {}[cursor.name]),
    "another code": (recognise, "_refuse", lambda why: (_ for _ in ()).throw(PoolError(Code.INTERNAL, why))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, monkeypatch):
    """Each of these is a recogniser with something left out or wrong."""
    owner, name, replacement = FAULTS[fault]
    monkeypatch.setattr(owner, name, replacement)
    mutator = fuzz_recognise.Mutator(1)
    for _ in range(30_000):
        content, side, scheme = mutator.next()
        try:
            fuzz_recognise.judge(content, side, scheme, always=True)
        except Exception:
            return
    pytest.fail("30 000 mutants did not show it")
