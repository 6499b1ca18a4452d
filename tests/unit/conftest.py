"""What tests of programs have in common: a pool that speaks V2 only, and tunnels over it."""

import pytest

import libstub
from tests.fixtures.fake_pool import FakePool
from tests.fixtures.tunnels import Backend, Noted, Running, plan_of


@pytest.fixture
def fake(no_leaks, tmp_path):
    made = FakePool(tmp_path / "s")
    yield made
    made.stop()


@pytest.fixture
def pool(fake):
    with libstub.Pool(fake.path) as made:
        yield made


@pytest.fixture
def backend():
    made = Backend()
    yield made
    made.close()


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def run(fake, noted, monkeypatch):
    """Start tunnels; all are stopped at the end."""
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    made = []

    def start(*words, listen="127.0.0.1:0"):
        made.append(Running(plan_of(*words, "--listen", listen), noted, listen))
        return made[-1]

    yield start
    for one in made:
        one.stop()
