"""Room responses for the pool: simulated, or the user's own, cut at the direct path."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyroomacoustics as acoustics
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.decode import AudioError
from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.resample import resample
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.data.manifest import Manifest, Utterance, relative_path
from miipher2.preparation.scan import ScannedFile
from miipher2.rng import stream

# Miipher-2 (arXiv:2505.04457): reverberation times and the sides of a room.
RT60_SECONDS = (0.2, 0.5)
SIDES_METRES = ((2.0, 10.0), (2.0, 10.0), (2.0, 5.0))
MIN_WALL_METRES = 0.3  # from speaker and microphone to a wall
MIN_DISTANCE_METRES = 0.5  # from speaker to microphone
DECAY = 1e-6  # of the energy: a response ends 60 dB down

Wave = Float32[np.ndarray, "time"]


def simulate_rooms(folder: Path, final_folder: Path, root: Path, *, seed: int, rooms: int) -> Manifest:
    """Write simulated responses at 16 kHz and return their manifest; the last sixth is the test split.

    Args:
        folder: where the files are written.
        final_folder: where they will lie, which the manifest names.
    """
    folder.mkdir(parents=True)
    rows = []
    for index in range(rooms):
        split = "test" if 0 < index >= rooms - max(1, rooms // 6) else "train"
        response = simulate_room(stream(seed, "room", index))
        rows.append(_write_response(folder, final_folder, root, index, response, split))
    return Manifest.from_utterances(rows)


def import_rooms(
    folder: Path, final_folder: Path, root: Path, *, files: list[ScannedFile], splits: list[str]
) -> Manifest:
    """Write the user's responses at 16 kHz, cut at the direct path, and return their manifest.

    Raises:
        AudioError: a response is silent.
    """
    folder.mkdir(parents=True)
    rows = []
    for index, (file, split) in enumerate(zip(files, splits, strict=True)):
        wave, rate_hz = read_audio(file.sound.source)
        wave = resample(wave, rate_hz, SAMPLE_RATE_HZ)
        if not wave.any():
            raise AudioError(f"{file.sound.source}: is silent; it should be a room response")
        response = from_direct_path(wave, int(np.abs(wave).argmax()))
        rows.append(_write_response(folder, final_folder, root, index, response, split))
    return Manifest.from_utterances(rows)


def simulate_room(rng: np.random.Generator) -> Wave:
    """Return the response between two random points of a random shoebox room, by image sources.

    Source: Allen and Berkley 1979; sizes and reverberation times as in Miipher-2.
    """
    with _one_thread():
        while True:
            sides = np.array([rng.uniform(*side) for side in SIDES_METRES])
            rt60_seconds = rng.uniform(*RT60_SECONDS)
            source, microphone = (rng.uniform(MIN_WALL_METRES, sides - MIN_WALL_METRES) for _ in range(2))
            distance = float(np.linalg.norm(microphone - source))
            try:
                absorption, max_order = acoustics.inverse_sabine(rt60_seconds, sides)
            except ValueError:  # no wall absorbs enough for so short a time in so large a room: draw another room
                continue
            if distance < MIN_DISTANCE_METRES:
                continue
            # A whole number of samples from mouth to ear: the direct path is a single sample, none of it cut off.
            speed = acoustics.constants.get("c")
            steps = int(distance * SAMPLE_RATE_HZ / speed)
            microphone = source + (microphone - source) * (steps * speed / SAMPLE_RATE_HZ / distance)
            room = acoustics.ShoeBox(
                sides, SAMPLE_RATE_HZ, materials=acoustics.Material(absorption), max_order=max_order
            )
            room.add_source(source)
            room.add_microphone(microphone)
            room.compute_rir()
            response = np.asarray(room.rir[0][0], dtype=np.float32)
            return from_direct_path(response, steps + acoustics.constants.get("frac_delay_length") // 2)


def from_direct_path(response: Wave, direct: int) -> Float32[np.ndarray, "cut"]:
    """Return a response from sample `direct` on, scaled to 1 there, and cut where 60 dB of its energy has decayed."""
    cut = response[direct:] / response[direct]
    remaining = np.cumsum(np.square(cut[::-1], dtype=np.float64))[::-1]
    return np.ascontiguousarray(cut[: max(1, int((remaining > remaining[0] * DECAY).sum()))])


def _write_response(folder: Path, final_folder: Path, root: Path, index: int, wave: Wave, split: str) -> Utterance:
    name = f"{index:05d}.wav"
    write_audio(folder / name, wave, SAMPLE_RATE_HZ, subtype="FLOAT")
    path, seconds = relative_path(final_folder / name, root), len(wave) / SAMPLE_RATE_HZ
    return Utterance(path, "room", "none", seconds, SAMPLE_RATE_HZ, sha256_of(folder / name), split)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let pyroomacoustics sum on one thread: the bits depend on the number of threads."""
    before = acoustics.constants.get("num_threads")
    acoustics.constants.set("num_threads", 1)
    try:
        yield
    finally:
        acoustics.constants.set("num_threads", before)
