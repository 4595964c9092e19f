"""What sound files hold: every one decoded once, measured and digested; it knows no splits."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.io import AudioError, AudioInfo, read_blocks, read_info
from miipher2.audio.levels import energy_level_db, frame_energies
from miipher2.preparation.layouts import Listing, Sound

SILENT_PEAK = 1e-3  # -60 dB of full scale
CLIPPED_VALUES = 3  # so many neighbours at full scale are no chance


@dataclass(frozen=True)
class Found:
    """A readable sound file."""

    sound: Sound
    sha256: str
    info: AudioInfo
    level_db: float  # of the active speech
    peak: float
    is_clipped: bool
    is_silent: bool


@dataclass(frozen=True)
class Survey:
    """The sounds of a corpus, by name: those that read, and those that do not with the reason."""

    folder: Path
    found: list[Found]
    unreadable: list[tuple[str, str]]
    left_out: int
    other_files: int


def survey(folder: Path, listing: Listing) -> Survey:
    """Read every sound of a listing, in its order."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        results = list(threads.map(_measure, listing.sounds))
    found = [result for result in results if isinstance(result, Found)]
    pairs = zip(listing.sounds, results, strict=True)
    unreadable = [(sound.name, result) for sound, result in pairs if isinstance(result, str)]
    return Survey(folder, found, [*listing.broken, *unreadable], listing.left_out, listing.other_files)


def _measure(sound: Sound) -> Found | str:
    """Return what a file holds, or why it cannot be used."""
    try:
        about = read_info(sound.source)
        # A whole number of frames, so that a block more or less makes no difference.
        frame = max(1, about.sample_rate_hz // 50)
        energies, peak, is_clipped, end = [], 0.0, False, np.zeros(0, np.float32)
        for block in read_blocks(sound.source, 1000 * frame):
            energies.append(frame_energies(block, frame))
            peak = max(peak, float(np.abs(block).max()))
            is_clipped = is_clipped or _is_clipped(np.concatenate([end, block]))
            end = block[-(CLIPPED_VALUES - 1) :]
        digest = sha256_of(sound.source)
    except (AudioError, OSError) as error:
        return str(error).removeprefix(f"{sound.source}: ")
    level_db = energy_level_db(np.concatenate(energies), about.samples, frame)
    return Found(sound, digest, about, level_db, peak, is_clipped, peak < SILENT_PEAK)


def _is_clipped(wave: Float32[np.ndarray, "time"]) -> bool:
    """Say whether some neighbours all lie at full scale."""
    full = np.abs(wave) >= 0.9995
    if full.sum() < CLIPPED_VALUES:
        return False
    runs = np.convolve(full.astype(np.int32), np.ones(CLIPPED_VALUES, dtype=np.int32))
    return bool((runs == CLIPPED_VALUES).any())
