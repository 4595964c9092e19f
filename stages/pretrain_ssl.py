"""Pre-train the mini encoder that ships, and write it to exp/encoder_mini in transformers' format.

    uv run stages/pretrain_ssl.py [key=value ...]

Its result is in Git (models/mini/restorer/encoder), so the pipeline does not run this.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from omegaconf import DictConfig

from miipher2.config.paths import ROOT, check_output
from miipher2.config.script import stage_script
from miipher2.recipes.masked_prediction import MaskedPredictionRecipe
from miipher2.training.stage import run_stage


@stage_script("pretrain_ssl", "mini_encoder")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    folder = ROOT / composed.export_to
    check_output(folder, own=("config.json", "model.safetensors"), label=f"export_to={composed.export_to}")
    recipe = run_stage(composed, "pretrain_ssl")
    assert isinstance(recipe, MaskedPredictionRecipe)
    recipe.write_encoder(folder)


if __name__ == "__main__":
    main()
