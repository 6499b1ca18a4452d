"""The settings of RADIUS: rows of the table (setting_table.py)."""

from __future__ import annotations

from pathlib import Path

from tlspool_common import setting_kinds as k
from tlspool_common.setting_kinds import choice, seconds, whole
from tlspool_common.setting_option import Option

RADIUS: tuple[Option, ...] = (
    Option(
        "radius_authn",
        k.SERVERS_AUTH,
        (),
        "B",
        "",
        "[RADIUS](radius.md) server that authenticates remotes: its address or name, with :port if that is not 1812; "
        "of several the first that answers is asked; may be repeated",
        True,
    ),
    Option("radius_authz", k.SERVERS_AUTH, (), "B", "", "server that authorises them, likewise", True),
    Option("radius_acct", k.SERVERS_ACCT, (), "B", "", "server that accounts for sessions, likewise, port 1813", True),
    Option(
        "radius_secret_file",
        k.PATH,
        None,
        "B",
        "",
        "file of the broker's own, mode 0600, with a line `SERVER SECRET` for each server, named as in the others; "
        "a reload finds it in the directory that was named at the start of the broker, without one in "
        "/var/lib/tlspool/secrets",
    ),
    Option("radius_timeout_s", seconds(0.1, 30), 2.0, "B", "", "how long a server may take to answer"),
    Option("radius_tries", whole(1, 10), 2, "B", "", "how often a server is asked before the next one is"),
    Option("radius_dead_s", seconds(1, 3600), 60.0, "B", "", "how long a server that did not answer is left alone"),
    Option(
        "radius_wait_s",
        seconds(0.1, 60),
        8.0,
        "B",
        "",
        "how long a session waits for all servers together: two servers asked twice take that long",
    ),
    Option(
        "radius_unsigned",
        choice("refuse", "accept"),
        "refuse",
        "B",
        "",
        "what is made of answers without a Message-Authenticator: anybody on the way can forge them (CVE-2024-3596)",
    ),
    Option(
        "radius_interim_s",
        seconds(0, 86400),
        600.0,
        "B",
        "",
        "seconds between two accounting updates of a session; less than 60 counts as 60; 0: none; a server may say "
        "otherwise",
    ),
    Option(
        "radius_spool_dir",
        k.PATH,
        Path("/var/lib/tlspool/radius"),
        "B",
        "B",
        "directory where accounting records wait for their server",
    ),
    Option(
        "radius_spool_records",
        whole(100, 10_000_000),
        1_000_000,
        "B",
        "",
        "records that may wait: a kilobyte each; a session more is one that cannot be accounted for",
    ),
    Option(
        "radius_dynamic",
        k.ADDRESSES,
        (),
        "B",
        "",
        "address of a server that may end sessions and change their timeouts (RFC 5176), with its secret in "
        "`radius_secret_file`; may be repeated",
        True,
    ),
    Option(
        "radius_dynamic_listen",
        k.ENDPOINT,
        None,
        "B",
        "",
        "address and UDP port where that is taken, such as 127.0.0.1:3799; default: nowhere",
    ),
)
