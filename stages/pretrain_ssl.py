"""Pre-train the mini encoder that the embedded default uses, and write it as transformers reads it.

    uv run stages/pretrain_ssl.py [key=value ...]

Its result is in Git (models/mini/encoder), so that the pipeline does not run this.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

import hydra
from omegaconf import DictConfig

from miipher2.config import ROOT
from miipher2.recipes.ssl import SslRecipe
from miipher2.stage import run_stage


@hydra.main(version_base="1.3", config_path="../configs/pretrain_ssl", config_name="mini_encoder")
def main(composed: DictConfig) -> None:
    """Run the stage and write the encoder."""
    recipe = run_stage(composed, "pretrain_ssl", SslRecipe.from_config, best_metric="valid/loss")
    recipe.write_encoder(ROOT / composed.export_to)


if __name__ == "__main__":
    main()
