"""A small prepared corpus that the data tests share."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_voices import voice

from miipher2.audio.io import write_audio
from miipher2.preparation.prepare import prepare


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository root with a corpus in data/speech, and data/prepared made from it; not to be written to."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("en", "fr/alice"):
        (root / "data/speech" / folder).mkdir(parents=True)
    for index in range(12):
        folder = ("en", "fr/alice")[index % 2]
        rate_hz = (16000, 24000, 44100)[index % 3]
        wave = voice(0.4 + 0.3 * index, rate_hz, index)
        both = np.stack([wave, 0.5 * wave]) if index == 5 else wave
        write_audio(root / "data/speech" / folder / f"{index:02d}.flac", both, rate_hz)
    prepare(root / "data/speech", root / "data/prepared", root=root, seed=3, noise_files=12, rooms=6)
    return root
