"""Scans sound files: decodes, measures and digests each once. Knows no splits."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.decode import AudioError, decode, open_decoder
from miipher2.audio.io import AudioInfo, to_mono
from miipher2.audio.levels import active_level_db, frame_energies
from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.preparation.layouts import Listing, Sound

SILENT_PEAK = 1e-3  # -60 dB of full scale
FULL_SCALE = 0.9995
CLIPPED_SAMPLES = 3  # neighbours at full scale that are no coincidence


@dataclass(frozen=True)
class ScannedFile:
    """A readable sound file and its measurements."""

    sound: Sound
    sha256: str
    info: AudioInfo
    level_db: float  # of the active speech
    peak: float
    is_clipped: bool
    is_silent: bool


@dataclass(frozen=True)
class Scan:
    """The sounds of a corpus by name: the readable ones, and the others with the reason."""

    folder: Path
    files: list[ScannedFile]
    unreadable: list[tuple[str, str]]
    left_out: int
    passed_over: Counter[str]


def scan(folder: Path, listing: Listing) -> Scan:
    """Measure every sound of a listing, in its order."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        results = list(threads.map(scan_sound, listing.sounds))
    files = [result for result in results if isinstance(result, ScannedFile)]
    pairs = zip(listing.sounds, results, strict=True)
    unreadable = [(sound.name, result) for sound, result in pairs if isinstance(result, str)]
    return Scan(folder, files, [*listing.broken, *unreadable], listing.left_out, listing.passed_over)


def scan_sound(sound: Sound) -> ScannedFile | str:
    """Return a file's measurements, or why it cannot be used."""
    try:
        with open_decoder(sound.source) as decoder:
            frame = max(1, decoder.sample_rate_hz // FRAMES_PER_SECOND)
            energies, samples, peak, is_clipped, tail = [], 0, 0.0, False, np.zeros(0, np.float32)
            for channels in decode(decoder, 1000 * frame):  # whole frames, so that the block length has no effect
                block = to_mono(channels)
                energies.append(frame_energies(block, frame))
                samples += len(block)
                peak = max(peak, float(np.abs(block).max()))
                is_clipped = is_clipped or _is_clipped(np.concatenate([tail, block]))
                tail = block[-(CLIPPED_SAMPLES - 1) :]
            rate_hz = decoder.sample_rate_hz
            info = AudioInfo(samples / rate_hz, samples, rate_hz, decoder.channels)
        digest = sha256_of(sound.source)
    except (AudioError, OSError) as error:
        return str(error).removeprefix(f"{sound.source}: ")
    level_db = active_level_db(np.concatenate(energies), info.samples, frame)
    return ScannedFile(sound, digest, info, level_db, peak, is_clipped, peak < SILENT_PEAK)


def _is_clipped(wave: Float32[np.ndarray, "time"]) -> bool:
    """Return whether some neighbouring samples are all at full scale."""
    is_full = np.abs(wave) >= FULL_SCALE
    if is_full.sum() < CLIPPED_SAMPLES:
        return False
    runs = np.convolve(is_full.astype(np.int32), np.ones(CLIPPED_SAMPLES, dtype=np.int32))
    return bool((runs == CLIPPED_SAMPLES).any())
