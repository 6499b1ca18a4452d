"""Files with revocation lists."""

import os

from tests.fixtures.authority import Authority
from tlspool_online import bounds
from tlspool_online.events import FileFailed, FileRead
from tlspool_online.watch import Watched

CA = Authority("CA")


def test_a_file_is_read_when_it_changes(tmp_path):
    path = tmp_path / "a.crl"
    path.write_bytes(CA.crl({5: ""}))
    file = Watched(path)
    assert file.changed()
    read = file.read()
    assert isinstance(read, FileRead) and read.path == str(path) and len(read.lists[0].revoked) == 1
    assert not file.changed()
    os.utime(path, ns=(1, 1))
    assert file.changed()
    file.read()
    new = tmp_path / "new"
    new.write_bytes(CA.crl({5: "", 6: ""}))
    new.rename(path)
    assert file.changed()
    assert len(file.read().lists[0].revoked) == 2


def test_a_file_that_is_not_there_or_is_none(tmp_path, monkeypatch):
    path = tmp_path / "a.crl"
    file = Watched(path)
    assert file.changed()
    assert file.read() == FileFailed(str(path), "No such file or directory")
    assert not file.changed()  # reported once
    path.write_bytes(b"x")
    assert file.changed()
    assert "cannot be read" in file.read().detail
    monkeypatch.setattr(bounds, "FILE_B", 100)
    path.write_bytes(CA.crl())
    assert file.read() == FileFailed(str(path), "more than 100 bytes")
    assert Watched(tmp_path).read().detail == "Is a directory"
