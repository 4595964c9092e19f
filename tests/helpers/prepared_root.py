"""A small prepared corpus that the tests of data and preparation share; their conftest imports the fixture."""

from pathlib import Path

import numpy as np
import pytest
from data_configs import prepare_folder
from synthetic_voices import synthetic_voice

from miipher2.audio.io import write_audio


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a read-only repository root with a corpus in data/speech, prepared in data/prepared."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("en", "fr/alice"):
        (root / "data/speech" / folder).mkdir(parents=True)
    for index in range(12):
        folder = ("en", "fr/alice")[index % 2]
        rate_hz = (16000, 24000, 44100)[index % 3]
        wave = synthetic_voice(0.4 + 0.3 * index, rate_hz, index)
        channels = np.stack([wave, 0.5 * wave]) if index == 5 else wave
        write_audio(root / "data/speech" / folder / f"{index:02d}.flac", channels, rate_hz)
    prepare_folder(root / "data/speech", root / "data/prepared", root, seed=3, noise_files=12, rooms=6)
    return root
