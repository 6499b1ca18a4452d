"""``tlspool completion bash|zsh|fish``: what a shell needs to complete this command."""

from __future__ import annotations

import argparse

from tlspool_admin.catalog import help_of
from tlspool_admin.options import common

_TEXT = """\
Prints a script for a shell.  bash: eval "$(tlspool completion bash)" in ~/.bashrc, or into
/etc/bash_completion.d/tlspool.  zsh: into a file _tlspool in a directory of $fpath.  fish: into
~/.config/fish/completions/tlspool.fish.  Identities, selectors, sessions and the like are asked of the broker, if it
answers within a second."""

KINDS = ("identities", "selectors", "anchors", "sessions", "generations", "settings")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("completion", parents=[common()], help=help_of("completion"), description=_TEXT)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    parser.add_argument("--words", choices=KINDS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script, or the words that the script asks for."""
    if args.words:
        from tlspool_admin.words import words_of

        print("\n".join(words_of(args, args.words)))
        return 0
    from tlspool_admin import shells
    from tlspool_admin.__main__ import parser  # all commands: not when a word is completed

    print(shells.SCRIPTS[args.shell](parser()), end="")
    return 0
