"""Scan a folder of speech into a manifest, split it, and prepare noises and room responses.

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
from miipher2.preparation.corpora import corpora_of
from miipher2.preparation.prepare import prepare


@stage_script("data", "embedded")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    config = load_config(composed, "data", PrepareDataConfig)
    folders = {
        key: None if getattr(config, key) is None else ROOT / getattr(config, key)
        for key in ("held_out", "noise_folder", "rooms_folder")
    }
    report = prepare(
        corpora_of(config, ROOT),
        ROOT / config.prepared,
        root=ROOT,
        seed=config.seed,
        noise_files=config.noise_files,
        rooms=config.rooms,
        as_published=config.splits == "published",
        by_speaker_from=config.by_speaker_from,
        on_bad_file=config.on_bad_file,
        **folders,
    )
    for name, value in report.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
