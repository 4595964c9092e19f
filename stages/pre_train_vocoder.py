"""Train the vocoder on clean features (stage 2).

    uv run stages/pre_train_vocoder.py --config-name=hifigan_pretrain_layer_6_mhubert_147 [key=value ...]
    uv run stages/pre_train_vocoder.py --config-name=... checkpoint.resume_from=exp/<name>/checkpoint_10k.pt

`--cfg job` prints the configuration, configs/pre_train_vocoder/ holds the names to choose from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

import hydra
from omegaconf import DictConfig

from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.stage import run_stage


@hydra.main(
    version_base="1.3", config_path="../configs/pre_train_vocoder", config_name="hifigan_pretrain_layer_6_mhubert_147"
)
def main(composed: DictConfig) -> None:
    """Run the stage."""
    run_stage(composed, "pre_train_vocoder", VocoderRecipe.from_config, best_metric="valid/mel")


if __name__ == "__main__":
    main()
