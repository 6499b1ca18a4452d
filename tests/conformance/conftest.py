"""Pools for the cases, one for each configuration that a case asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.wires import Identities
from tlspool_admin.devpool import DevPool

POOLS: dict[str, list[str]] = {
    "": [],
    "denied": ["deny_facilities starttls"],
    "hasty": ["callback_timeout_s 1"],
}
"""Lines of configuration, by the name that cases use."""


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[DevPool, Identities]]]:
    """Return a pool by its name; each is started when it is wanted first."""
    made: dict[str, tuple[DevPool, Identities]] = {}

    def get(name: str) -> tuple[DevPool, Identities]:
        if name not in made:
            pool = DevPool(tmp_path_factory.mktemp("c") / "p")
            made[name] = pool, Identities(pool)
            pool.up("ec", ["log_level debug", *POOLS[name]])
        return made[name]

    yield get
    for pool, _ in made.values():
        pool.down()
