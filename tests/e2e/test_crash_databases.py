"""A kill at any moment loses no change that was acknowledged, and leaves none half done."""

import random

from tests import crash_databases


def test_writers_that_are_killed(tmp_path):
    assert crash_databases.kill_writers(tmp_path, 8, random.Random(1)) > 8


def test_brokers_that_are_killed(tmp_path):
    assert crash_databases.kill_brokers(tmp_path, 8, random.Random(2)) > 8
