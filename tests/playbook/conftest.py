"""What stories of the broker's core begin with.  Those of other cores have a ``world`` of their own."""

import pytest

from tests.playbook.broker import World


@pytest.fixture
def world(no_leaks):
    """A broker's core with everybody around it."""
    made = World()
    yield made
    made.close()


@pytest.fixture
def app(world):
    """An application that is connected."""
    return world.app()
