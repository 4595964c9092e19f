"""Train parallel adapters on the frozen encoder (stage 1).

    uv run stages/train_adapter.py --config-name=adapter_layer_4_mhubert_147 [key=value ...]
    uv run stages/train_adapter.py --config-name=... checkpoint.resume_from=exp/<name>/checkpoint_10k.pt

`--cfg job` prints the configuration; configs/train_adapter/ holds the names to choose from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from omegaconf import DictConfig

from miipher2.config.script import stage_script
from miipher2.training.stage import run_stage


@stage_script("train_adapter", "adapter_layer_4_mhubert_147")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    run_stage(composed, "train_adapter")


if __name__ == "__main__":
    main()
