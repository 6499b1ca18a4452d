"""Attacks upon the broker's core begin as its stories do."""

from tests.playbook.conftest import app, world

__all__ = ["app", "world"]
