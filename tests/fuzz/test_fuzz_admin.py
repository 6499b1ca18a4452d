"""Operators' requests.  Invariant: any of them is answered or refused with PoolError; a refusal changes nothing,
and an answer can be written as JSON.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_broker import admin
from tlspool_broker.databases import Databases
from tlspool_common.errors import Code, PoolError

LEAF, ROOT = (base64.b64encode(one.der).decode() for one in (certs.leaf(), certs.root()))
WORDS = st.sampled_from(
    ["example.com", "a@b.example", ".", "@.org", "host", "localid:a.example", "modern", "x509,client", "valexp,server",
     "x509,pinned", "x509,revoke", "pkcs11:object=a", "T", "TI&", "TI", "1", "0", "11" * 32, "aabb", LEAF, ROOT, "",
     "show", "é", "\ud800", "\0"]
)  # fmt: skip
scalars = WORDS | st.integers(-5, 2**70) | st.booleans() | st.none() | st.text(max_size=5) | st.floats(allow_nan=False)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.sampled_from(["uri", "chain"]), scalars)
fields = st.sampled_from(
    ["id", "flags", "records", "selector", "ids", "expression", "valexp", "data", "key", "remote", "sha256", "until_s",
     "before_s", "alone", "serials", "crl", "next_update_s", "policy", "number", "generation", "a", "b", "to", "args",
     "reason", "author", "if_generation", "strict", "like_upstream", "operations"]
)  # fmt: skip
requests = st.dictionaries(
    fields, values | st.lists(st.dictionaries(st.sampled_from(["uri", "chain"]), values), max_size=2), max_size=6
)


@pytest.fixture(scope="module")
def databases():
    home = Path(tempfile.mkdtemp(prefix="tlspool-test-"))
    made = Databases(home)
    yield made
    made.close()
    shutil.rmtree(home)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(admin.COMMANDS), requests, st.lists(st.tuples(st.sampled_from(admin.COMMANDS), requests)))
def test_any_request(databases, command, request, operations):
    if command == "batch":
        request = {**request, "operations": [{**each, "cmd": name} for name, each in operations]}
    generation = databases.generation
    try:
        answer = admin.handle(databases, {**request, "cmd": command})
    except PoolError as error:
        assert error.code is not Code.DATABASE, error
        assert databases.generation == generation
    else:
        json.dumps(answer)
        assert databases.generation in (generation, generation + (command in admin.WRITES))
        assert answer["generation"] == databases.generation
