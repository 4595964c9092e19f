"""Pre-train the vocoder on features of clean speech (stage 2).

    uv run stages/pre_train_vocoder.py --config-name=hifigan_pretrain_layer_6_mhubert_147 [key=value ...]
    uv run stages/pre_train_vocoder.py --config-name=... checkpoint.resume_from=exp/<name>/checkpoint_10k.pt

`--cfg job` prints the configuration; configs/pre_train_vocoder/ holds the names to choose from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from omegaconf import DictConfig

from miipher2.config.script import stage_script
from miipher2.training.stage import run_stage


@stage_script("pre_train_vocoder", "hifigan_pretrain_layer_6_mhubert_147")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    run_stage(composed, "pre_train_vocoder")


if __name__ == "__main__":
    main()
