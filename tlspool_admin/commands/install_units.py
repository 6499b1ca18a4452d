"""``tlspool install-units`` and ``uninstall-units``: systemd units for a pool in a virtual environment.

The Debian package brings its units along; this is for ``pip install``.  What is written is what the tree has in
systemd/, with the commands of this environment in place of those in /usr/bin.  Files that somebody else wrote are
never overwritten and never removed: ours say so in their first line.
"""

from __future__ import annotations

import argparse
import stat
import sys
from pathlib import Path
from typing import NamedTuple

import tlspool_admin
from tlspool_admin.catalog import help_of
from tlspool_admin.options import common
from tlspool_admin.table import clean, print_json, table
from tlspool_common.errors import Code, PoolError

MARK = "# Written by tlspool install-units; tlspool uninstall-units removes it.\n"
UNIT_DIR = Path("etc/systemd/system")
_OTHERS = {
    # what the tree calls it: where it goes, and whether a file that is there already stays
    "tlspool.sysusers.conf": (Path("etc/sysusers.d/tlspool.conf"), False),
    "tlspool.tmpfiles.conf": (Path("etc/tmpfiles.d/tlspool.conf"), False),
    "tlspool.conf": (Path("etc/tlspool.conf"), True),
    "softhsm2.conf": (Path("etc/tlspool/softhsm2.conf"), True),
}
_PACKAGED = Path("lib/systemd/system/tlspool-broker.service")
_COMMANDS = ("tlspool", "tlspool-broker", "tlspool-keyd", "tlspool-worker")
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))
"""What the units do not see: ProtectHome= and PrivateTmp=."""

_NEXT = """
Then, as root:
  systemd-sysusers
  systemd-tmpfiles --create
  systemctl daemon-reload
  systemctl enable --now tlspool.target {sockets}
The PIN of the token: systemd-creds encrypt --name=pkcs11-pin - /etc/credstore.encrypted/tlspool.pkcs11-pin"""


class File(NamedTuple):
    """A file to be: where, with what in it, and what is to be done about it."""

    path: Path
    text: str
    action: str


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands."""
    text = """Writes units, sockets, a target, users and directories for systemd, so that a pool in a virtual
    environment runs like that of the Debian package.  A configuration is written where there is none."""
    parser = subparsers.add_parser("install-units", parents=[common()], help=help_of("install-units"), description=text)
    _places(parser)
    parser.add_argument(
        "--prefix", type=Path, metavar="DIR", default=Path(sys.prefix), help="environment with bin/tlspool-broker"
    )
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.set_defaults(run=run_install)

    text = (
        """Removes what install-units has written, but for the configuration.  Stop the pool first; --check says how."""
    )
    parser = subparsers.add_parser(
        "uninstall-units", parents=[common()], help=help_of("uninstall-units"), description=text
    )
    _places(parser)
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.set_defaults(run=run_uninstall)


def _places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, metavar="DIR", default=Path("/"), help="root of the host (default: /)")


def source() -> Path:
    """Return the directory with what is installed: in the environment, or in the tree of an editable installation.

    Raises:
        PoolError: UNITS_UNFIT, it is in neither.
    """
    tree = Path(tlspool_admin.__file__).resolve().parent.parent / "systemd"
    installed = Path(sys.prefix, "share/tlspool/systemd")
    for directory in (tree, installed):
        if (directory / "tlspool.target").is_file():
            return directory
    raise PoolError(Code.UNITS_UNFIT, f"no units at {installed}")


def check_prefix(prefix: Path) -> None:
    """See that daemons that are nobody in particular, and see no home directory, can run what is in an environment.

    Raises:
        PoolError: UNITS_UNFIT, names what is in the way.
    """
    python = prefix / "bin/python"
    for path in (*(prefix / "bin" / name for name in _COMMANDS), python):
        if not path.is_file():
            raise PoolError(Code.UNITS_UNFIT, f"there is no {path}")
    # The path as it is written, and what it leads to: systemd and the kernel walk along both.
    walks = [(path, one) for path in (python, python.resolve()) for one in (path, *path.parents)]
    for path, one in walks:
        if one in _HIDDEN:
            raise PoolError(Code.UNITS_UNFIT, f"{path}: the units see nothing in {one}")
    for path, one in walks:
        if not one.stat().st_mode & stat.S_IXOTH:
            raise PoolError(Code.UNITS_UNFIT, f"{path}: other users may not pass {one}")


def plan(root: Path, prefix: Path) -> list[File]:
    """Return the files to be, and what each of them needs.

    Raises:
        PoolError: UNITS_UNFIT, one of them is somebody else's, or the Debian package is installed.
    """
    if (root / _PACKAGED).exists():
        raise PoolError(Code.UNITS_UNFIT, f"{root / _PACKAGED}: the Debian package has units of its own")
    found = []
    for path in sorted(source().iterdir()):
        target, keep = _OTHERS.get(path.name, (UNIT_DIR / path.name, False))
        text = path.read_text().replace("/usr/bin/tlspool", f"{prefix}/bin/tlspool")
        if not keep:
            text = MARK + text
        found.append(File(root / target, text, _action(root / target, text, keep)))
    return found


def _action(path: Path, text: str, keep: bool) -> str:
    try:
        present = path.read_text()
    except FileNotFoundError:
        return "write"
    except OSError as error:
        raise PoolError(Code.UNITS_UNFIT, f"{path}: {error.strerror}") from None
    if keep or present == text:
        return "leave"
    if not present.startswith(MARK):
        raise PoolError(Code.UNITS_UNFIT, f"{path} was not written by install-units; move it away")
    return "replace"


def run_install(args: argparse.Namespace) -> int:
    """Write the files."""
    prefix = args.prefix.absolute()
    check_prefix(prefix)
    files = plan(args.root.absolute(), prefix)
    if not args.check:
        for file in files:
            if file.action != "leave":
                _do(file.path, file.text)
    _tell(args, files)
    if not args.json and not args.check:
        sockets = sorted(file.path.name for file in files if file.path.suffix == ".socket")
        print(_NEXT.format(sockets=" ".join(sockets)))
    return 0


def run_uninstall(args: argparse.Namespace) -> int:
    """Remove what is ours."""
    root = args.root.absolute()
    kept = {target for target, keep in _OTHERS.values() if keep}
    paths = [*(root / UNIT_DIR).glob("tlspool*"), *(root / target for target, _ in _OTHERS.values())]
    files = []
    for path in sorted(path for path in paths if path.is_file()):
        ours = path.relative_to(root) not in kept and path.read_text(errors="replace").startswith(MARK)
        files.append(File(path, "", "remove" if ours else "leave"))
    for file in files:
        if file.action == "remove" and not args.check:
            _do(file.path, None)
    _tell(args, files)
    if not args.json and args.check:
        units = [file.path.name for file in files if file.path.suffix == ".socket"]
        print(f"\nFirst, as root:\n  systemctl disable --now tlspool.target {' '.join(units)}")
    elif not args.json:
        print("\nThen, as root:\n  systemctl daemon-reload\nUsers, databases and tokens are still there.")
    return 0


def _do(path: Path, text: str | None) -> None:
    try:
        if text is None:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    except OSError as error:
        raise PoolError(Code.UNITS_UNFIT, f"{path}: {error.strerror}") from None


def _tell(args: argparse.Namespace, files: list[File]) -> None:
    rows = [{"action": file.action, "file": clean(str(file.path))} for file in files]
    if args.json:
        print_json({"ok": True, "done": not args.check, "files": rows})
    elif rows:
        print(table(rows))
