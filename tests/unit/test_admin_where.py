"""The one setting that commands read by themselves is the one that the daemons have."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_admin import where
from tlspool_common import settings
from tlspool_common.errors import PoolError

LINES = st.sampled_from(
    ["run_dir /a", "run_dir /b c", "# run_dir /d", "", "log_level debug", "run_dirs /e", "socket_mode 0600"]
)


@given(st.lists(LINES))
def test_as_the_daemons_read_it(lines):
    text = "".join(f"{line}\n" for line in lines)
    try:
        expected = settings.parse_untrusted(text).run_dir
    except PoolError:
        return
    assert where.run_dir_untrusted(text.encode()) == expected


@given(st.binary(max_size=200))
def test_anything_is_a_path(data):
    assert isinstance(where.run_dir_untrusted(data), Path)


def test_a_file_that_is_wrong_elsewhere_will_do(tmp_path):
    path = tmp_path / "conf"
    path.write_text("colour red\nrun_dir /x\n")
    assert where.run_dir_of(path) == Path("/x")


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(where.Unconfigured, match="--config"):
        where.run_dir_of(tmp_path / "absent")
    path = tmp_path / "conf"
    path.write_text("run_dir x\n")
    with pytest.raises(PoolError, match="absolute"):
        where.run_dir_of(path)


def test_which_file(monkeypatch):
    monkeypatch.delenv("TLSPOOL_CONFIG_FILE", raising=False)
    assert where.config_path(None) == where.DEFAULT_CONFIG
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", "/e")
    assert where.config_path(None) == Path("/e")
    assert where.config_path(Path("/g")) == Path("/g")
