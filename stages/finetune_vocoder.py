"""Fine-tune the vocoder on cleaned features of degraded speech (stage 3).

    uv run stages/finetune_vocoder.py --config-name=hifigan_ft_layer_6_mhubert_147 [key=value ...]
    uv run stages/finetune_vocoder.py --config-name=... checkpoint.resume_from=exp/<name>/checkpoint_10k.pt

`--cfg job` prints the configuration, configs/finetune_vocoder/ holds the names to choose from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

import hydra
from omegaconf import DictConfig

from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.stage import run_stage


@hydra.main(version_base="1.3", config_path="../configs/finetune_vocoder", config_name="hifigan_ft_layer_6_mhubert_147")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    run_stage(composed, "finetune_vocoder", VocoderRecipe.from_config, best_metric="valid/mel")


if __name__ == "__main__":
    main()
