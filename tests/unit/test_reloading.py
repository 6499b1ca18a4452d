"""Reading the configuration again: all of it or nothing, and everything is said."""

import json

import pytest

from tlspool_broker.access import Access
from tlspool_common import control
from tlspool_common.errors import Code
from tlspool_common.log import Log
from tlspool_common.reloading import Reloading
from tlspool_common.setting_errors import SettingError
from tlspool_common.settings import Part, load


@pytest.fixture
def world(tmp_path, capsys):
    class World:
        path = tmp_path / "conf"

        def logged(self):
            return capsys.readouterr().err

        def write(self, text):
            self.path.write_text(text)

        def start(self, text, part=Part.BROKER, **more):
            self.write(text)
            self.settings = load(self.path, part)
            self.log = Log("test", self.settings.log_level)
            self.reloading = Reloading(self.path, self.settings, self.log, **more)

    return World()


def test_new_settings_are_in_force(world):
    world.start("max_sessions 5\n")
    world.write("max_sessions 6\nlog_level debug\ndbenv_dir /other\nldap_proxy ldap://x\n")
    assert world.reloading.reload() == {
        "file": str(world.path),
        "applied": ["max_sessions", "log_level"],
        "restart": ["dbenv_dir"],
        "warnings": [
            "line 4: ldap_proxy has no effect: this version does not ask LDAP; predicates G and g are undecided"
        ],
    }
    assert world.settings.max_sessions == 6
    assert world.log.wants("debug")
    logged = world.logged()
    assert "event=reload.needs_restart settings=dbenv_dir" in logged
    assert "event=setting.ignored" in logged
    assert world.reloading.reload()["applied"] == []


@pytest.mark.parametrize("text", ["max_sessions 6\nworkers 0\nnonsense 1\n", "max_sessions 6\nrelay rust\nworkers 0\n"])
def test_of_a_wrong_file_nothing_is(world, text):
    world.start("max_sessions 5\n")
    before = dict(vars(world.settings))
    world.write(text)
    with pytest.raises(SettingError) as caught:
        world.reloading.reload()
    assert caught.value.code is Code.RELOAD_REFUSED
    assert len(caught.value.problems) == 2
    assert dict(vars(world.settings)) == before
    assert world.logged().count("ERROR test: event=reload.refused code=706") == 2
    answer = control.refusal(caught.value)
    assert answer["code"] == 706
    assert [problem["line"] for problem in answer["problems"]] == [2, 3]
    json.dumps(answer)
    assert "the settings that were in force stay so" in str(caught.value)
    world.reloading.on_signal()  # says the same to the log only
    assert dict(vars(world.settings)) == before


def test_nor_of_one_that_is_gone(world):
    world.start("max_sessions 5\n")
    world.path.unlink()
    with pytest.raises(SettingError, match="No such file"):
        world.reloading.reload()
    assert world.settings.max_sessions == 5


def test_a_daemon_may_read_more_out_of_it(world):
    def read(path):
        if "9" in path.read_text():
            raise SettingError("max_sessions", "9", "is no number for us")
        return load(path, Part.BROKER)

    taken = []
    world.start("max_sessions 5\n", adopt=taken.append, read=read)
    world.write("max_sessions 9\n")
    with pytest.raises(SettingError, match="is no number for us"):
        world.reloading.reload()
    assert taken == []
    world.write("max_sessions 8\n")
    world.reloading.reload()
    assert [newer.max_sessions for newer in taken] == [8]


def test_what_is_in_force_is_shown_with_its_line(world):
    world.start("\nmax_sessions 5\n")
    answer = world.reloading.describe()
    assert answer["file"] == str(world.path)
    rows = {row["name"]: row for row in answer["settings"]}
    assert (rows["max_sessions"]["value"], rows["max_sessions"]["line"]) == ("5", 2)
    json.dumps(answer)


def test_rules_that_stay_keep_their_count(world):
    world.start("access a allow role=server\naccess b deny\n")
    access = Access(world.settings.access)
    access._used = [3, 4]
    world.write("access b deny\naccess a allow role=client\n")
    access.replace(load(world.path, Part.BROKER).access)
    assert [(row["rule"], row["used"]) for row in access.rows()] == [("b", 4), ("a", 0), ("-", 0)]
