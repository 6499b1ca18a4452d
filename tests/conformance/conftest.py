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
    # RADIUS servers that are not there: questions are not answered, and records wait.
    "billed": [
        "radius_authn 127.0.0.1:9",
        "radius_authz 127.0.0.1:9",
        "radius_acct 127.0.0.1:9",
        "radius_secret_file {directory}/radius.secrets",
        "radius_spool_dir {directory}/spool",
        "radius_timeout_s 0.2",
        "radius_tries 1",
        "radius_wait_s 1",
        "radius quiet authn=no authz=no acct=no",
        "account mine allow remoteid=@home.example",
        "account not deny remoteid=testcli@tlspool.arpa2.lab service=generic localid=testsrv@tlspool.arpa2.lab",
    ],
}
"""Lines of configuration, by the name that cases use."""


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[DevPool, Identities]]]:
    """Return a pool by its name; each is started when it is wanted first."""
    made: dict[str, tuple[DevPool, Identities]] = {}

    def get(name: str) -> tuple[DevPool, Identities]:
        if name not in made:
            directory = tmp_path_factory.mktemp("c")
            pool = DevPool(directory / "p")
            made[name] = pool, Identities(pool)
            secrets = directory / "radius.secrets"
            secrets.write_text("127.0.0.1 a secret of tests\n")
            secrets.chmod(0o600)
            pool.up("ec", ["log_level debug", *(line.format(directory=directory) for line in POOLS[name])])
        return made[name]

    yield get
    for pool, _ in made.values():
        pool.down()
