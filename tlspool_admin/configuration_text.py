"""What docs/configuration.md and tlspool.conf(5) say besides the table of settings, with code in backquotes."""

from __future__ import annotations

from tlspool_common import access, account_rules, quota, radius_rules

FILE = (
    "One file for all three daemons: `--config FILE`, else the file named by `TLSPOOL_CONFIG_FILE`, else "
    "`/etc/tlspool.conf`. A line is `keyword`, one space, and the value to the end of the line; lines that start "
    "with `#` and blank lines count for nothing. Of a keyword that stands there twice the last line counts, unless "
    "it may be repeated. Nothing acts before the whole file has been read, and everything that is wrong with it is "
    "named at once, with line, keyword, value and remedy. With `--check` a daemon only says whether the file is "
    "right; `tlspool check` looks at the host, too."
)
DAEMONS = (
    "Every daemon reads the whole file, and keeps what is its own: `B` the broker, `W` the worker, `K` keyd. A "
    "letter in brackets: a new value counts for that daemon when it is started again."
)
SPELLINGS = (
    "Yes is also written `true`, `yep`, `aye` or `1`, no `false` or `0`. The levels of syslog may stand in "
    "`log_level`: those above error mean error, notice means info, `*` means debug. Spaces around a value do not "
    "count, but in `pkcs11_pin`."
)
AGAIN = (
    "`tlspool reload`, the word `reload` on a daemon's control socket, or SIGHUP to a daemon, reads the file "
    "again: all of it, or nothing. If anything is wrong the settings that were in force stay so; the log and the "
    "answer name everything that is wrong. What counts at the next start only is named, and keeps its old value. "
    "Sessions that begin afterwards go by the new settings; those that are there go on. After a change of `relay`, "
    "`handshake_threads`, `log_level` or `pkcs11_timeout_s` the workers are replaced: those with sessions finish "
    "them. A helper that asks the network for the broker is replaced when it has no open question. The daemons "
    "read the file one by one, each when it is told to.\n\n"
    "`config` on a control socket shows that daemon's settings and the line that each comes from (0: the default). "
    "The PIN is not shown."
)
SOCKETS = (
    "Each `socket_name` is one. `socket_mode`, `socket_user` and `socket_group` are for the `socket_name` lines "
    "behind them, until they are set anew; of a single socket they may stand anywhere. The first is the one that "
    "applications find in this file. Sockets that systemd passes (FileDescriptorName `app`) take the place of all "
    "of them; it may pass control sockets, too, by the names `broker`, `worker` and `keyd`, and `pin`."
)
EARLIER = (
    "A file of an earlier pool may need these changes: `socket_mode` is octal, also without a leading zero; words "
    "of `allow_facilities` and `deny_facilities` that mean nothing are refused; a file with `pkcs11_pin` may be "
    "readable for its owner only, as others find the PIN there."
)


def _doc(text: str | None) -> str:
    """Return what stands behind the first line of a module's text."""
    return (text or "").partition("\n")[2].strip("\n")


RULES = (
    ("Access rules", _doc(access.__doc__)),
    ("Limit rules", _doc(quota.__doc__)),
    ("Account rules", _doc(account_rules.__doc__)),
    ("RADIUS rules", _doc(radius_rules.__doc__)),
)
"""Titles, and what the modules that read these rules say of them."""
