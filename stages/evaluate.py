"""Restore degraded held-out speech with the published weights, measure it, and write a report with audio.

uv run stages/evaluate.py [key=value ...]     the report is exp/report/index.html
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from omegaconf import DictConfig

from miipher2.config.load import load_config
from miipher2.config.schema import EvaluateConfig
from miipher2.config.script import stage_script
from miipher2.evaluation.stage import run_evaluation


@stage_script("evaluate", "default")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    run_evaluation(load_config(composed, "evaluate", EvaluateConfig))


if __name__ == "__main__":
    main()
