"""Operations on the databases: by the broker, or on the files themselves while no broker runs.

Both ways are the same operations, with the same answers, history and refusals.  Who may change the files is decided
by who may write them; standard error says when that is what happened.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import author, config_path, control_socket
from tlspool_admin.table import clean

Answer = dict[str, object]


def operate(args: argparse.Namespace, command: str, **fields: object) -> Answer:
    """Have an operation carried out; ``--reason`` and ``--if-generation`` are passed on.

    Raises:
        PoolError: it is refused.
        NotReachable: the broker runs, and does not answer; or may not be asked.
    """
    request: dict[str, object] = {"cmd": command, "author": author(), **fields}
    for name in ("reason", "if_generation"):
        if getattr(args, name, None) is not None:
            request[name] = getattr(args, name)
    try:
        return ask(control_socket(args, "broker"), request)
    except NotReachable as error:
        if not error.nobody:
            raise
    return offline(config_path(args), request)


def offline(config: Path, request: dict[str, object]) -> Answer:
    """Carry out an operation on the files.

    Raises:
        PoolError: it is refused, or a broker runs after all.
    """
    # Slow to import, and not needed where a broker answers.
    from tlspool_broker import admin
    from tlspool_broker import offline as without_broker
    from tlspool_common import settings

    found = settings.load(config, settings.Part.BROKER)
    with without_broker.open(found) as databases:
        print(f"tlspool: no broker runs; working on the files in {clean(str(found.dbenv_dir))}", file=sys.stderr)
        return {"ok": True, **admin.handle(databases, request)}
