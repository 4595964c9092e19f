"""Scan corpora into a manifest, split them, and prepare noises and room responses.

uv run stages/prepare_data.py                                                   the embedded speech
uv run stages/prepare_data.py --config-name=libritts_r source=/corpora/LibriTTS_R  a corpus, see configs/data/
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from omegaconf import DictConfig

from miipher2.config.load import load_config
from miipher2.config.paths import ROOT
from miipher2.config.schema_data import PrepareDataConfig
from miipher2.config.script import stage_script
from miipher2.preparation.prepare import prepare

MAX_SHOWN = 8


@stage_script("data", "embedded")
def main(composed: DictConfig) -> None:
    """Run the stage and print its report; of long parts, such as one of a corpus's speakers, only how long they are."""
    config = load_config(composed, "data", PrepareDataConfig)
    for name, value in prepare(config, ROOT).items():
        is_long = isinstance(value, dict | list) and len(value) > MAX_SHOWN
        text = f"{len(value)} of them, see {config.prepared}/report.json" if is_long else value
        sys.stdout.write(f"{name}: {text}\n")


if __name__ == "__main__":
    main()
