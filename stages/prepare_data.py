"""Scan a folder of speech into a manifest, split it, and prepare noises and room responses.

uv run stages/prepare_data.py                                                   the embedded speech
uv run stages/prepare_data.py --config-name=libritts_r source=/corpora/LibriTTS_R  a corpus, see configs/data/
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

import hydra
from omegaconf import DictConfig

from miipher2.config import ROOT, stage_config
from miipher2.data.corpora import corpora_of
from miipher2.data.prepare import prepare


@hydra.main(version_base="1.3", config_path="../configs/data", config_name="embedded")
def main(composed: DictConfig) -> None:
    """Run the stage."""
    config = stage_config(composed, "data")
    folders = {
        key: None if config[key] is None else ROOT / config[key] for key in ("held_out", "noise_folder", "rooms_folder")
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
