"""Fine-tune the vocoder on the adapters' features of degraded speech (stage 3).

    uv run stages/finetune_vocoder.py --config-name=hifigan_ft_layer_6_mhubert_147 [key=value ...]
    uv run stages/finetune_vocoder.py --config-name=... checkpoint.resume_from=exp/<name>/checkpoint_10k.pt

`--cfg job` prints the configuration; configs/finetune_vocoder/ holds the names to choose from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from omegaconf import DictConfig

from miipher2.config.script import stage_script
from miipher2.training.stage import run_stage


@stage_script("finetune_vocoder", "hifigan_ft_layer_6_mhubert_147")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    run_stage(composed, "finetune_vocoder")


if __name__ == "__main__":
    main()
