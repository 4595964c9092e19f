"""The command, for the tests of commands."""

import pytest
from tiny_checkpoints import Command
from tiny_repository import here, repository

__all__ = ["here", "miipher2", "repository"]  # fixtures


@pytest.fixture
def miipher2(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `miipher2` as a function of its words."""
    return Command(capsys)
