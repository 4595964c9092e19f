"""The command, for the tests of importing."""

import pytest
from tiny_checkpoints import Command


@pytest.fixture
def miipher2(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `miipher2` as a function of its words."""
    return Command(capsys)
