"""Clones for the DVC scenarios: `clone` with pretend stages, `real_clone` with the real ones."""

from pathlib import Path

import pytest
from dvc_clone import Clone, copy_clone, make_clone


@pytest.fixture(scope="session")
def pretend_original(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a finished clone with pretend stages; not to be written to."""
    return make_clone(tmp_path_factory.mktemp("pretend") / "repository", pretend=True)


@pytest.fixture(scope="session")
def real_original(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a finished clone with the real stages; not to be written to."""
    return make_clone(tmp_path_factory.mktemp("real") / "repository", pretend=False)


@pytest.fixture
def clone(pretend_original: Clone, tmp_path: Path) -> Clone:
    """Return a clone with pretend stages that the test may change."""
    return copy_clone(pretend_original, tmp_path / "repository")


@pytest.fixture
def real_clone(real_original: Clone, tmp_path: Path) -> Clone:
    """Return a clone with the real stages that the test may change."""
    return copy_clone(real_original, tmp_path / "repository")
