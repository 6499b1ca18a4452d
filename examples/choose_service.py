"""A program that chooses identities: always the given one, and lets the pool remember that for the remote's domain.

examples/choose_service.py --localid testcli@tlspool.arpa2.lab
"""

from __future__ import annotations

import argparse
import sys

import libstub


def main() -> int:
    """Serve until the pool ends."""
    parser = argparse.ArgumentParser(description="Choose the identity of clients.")
    parser.add_argument("--localid", metavar="ID", required=True, help="who clients of this user are")
    args = parser.parse_args()

    def choose(question: libstub.LocalidQuestion) -> libstub.LocalidChoice:
        print(f"{question.program} needs an identity for {question.remoteid}", flush=True)
        print(f"disclosed so far: {', '.join(entry.localid for entry in question.entries) or 'nothing'}", flush=True)
        # selectors: user@host.domain, @host.domain, user@.domain, @.domain, ...
        wider = question.selectors[min(1, len(question.selectors) - 1)]
        return libstub.LocalidChoice(args.localid, store="last", selector=wider)

    try:
        with libstub.LocalidService(choose) as service:
            service.run()
    except libstub.PoolError as error:
        print(f"ended: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
