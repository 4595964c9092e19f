"""Restore degraded held-out speech with the published weights, measure it, and write a page to hear and see it.

uv run stages/evaluate.py [key=value ...]     the page is exp/report/index.html
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

import hydra
from omegaconf import DictConfig

from miipher2.config import stage_config
from miipher2.judge import judge


@hydra.main(version_base="1.3", config_path="../configs/evaluate", config_name="default")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    judge(stage_config(composed, "evaluate"))


if __name__ == "__main__":
    main()
