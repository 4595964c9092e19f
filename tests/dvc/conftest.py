"""Fixtures of the DVC scenarios."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest_dvc import clone, finished

__all__ = ["clone", "finished"]
