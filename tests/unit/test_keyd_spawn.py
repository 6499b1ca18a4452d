"""What a token process is started with."""

from pathlib import Path

from tlspool_keyd import spawn


def test_what_is_not_passed_on(monkeypatch):
    for name in spawn.NOT_PASSED_ON:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SOFTHSM2_CONF", "/conf")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = spawn.environment()
    assert not set(spawn.NOT_PASSED_ON) & set(found)
    assert found["SOFTHSM2_CONF"] == "/conf"
    root = str(Path(spawn.__file__).resolve().parent.parent)
    assert found["PYTHONPATH"] == f"{root}:/elsewhere"
