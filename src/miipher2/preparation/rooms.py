"""Rooms: responses simulated or brought by the user, cut at the direct path, written as a pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyroomacoustics as acoustics
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.io import AudioError, read_audio, write_audio
from miipher2.audio.resample import resample
from miipher2.data.manifest import Manifest, Utterance, relative
from miipher2.preparation.scan import Found
from miipher2.rng import stream

RATE_HZ = 16000
# Miipher-2 (arXiv 2505.04457): reverberation times and the sides of a room.
RT60_SECONDS = (0.2, 0.5)
SIDES_METRES = ((2.0, 10.0), (2.0, 10.0), (2.0, 5.0))
WALL_METRES = 0.3  # nobody talks, and no microphone hangs, nearer to a wall
APART_METRES = 0.5

Wave = Float32[np.ndarray, "time"]


def make_rooms(folder: Path, final_folder: Path, root: Path, *, seed: int, rooms: int) -> Manifest:
    """Simulate and write `rooms` responses at 16 kHz, return their manifest; the last sixth is the test split.

    Args:
        folder: where the files are written.
        final_folder: where they will lie, which the manifest names.
    """
    folder.mkdir(parents=True)
    rows = []
    for index in range(rooms):
        split = "test" if 0 < index >= rooms - max(1, rooms // 6) else "train"
        rows.append(_keep(folder, final_folder, root, index, simulate(stream(seed, "room", index)), split))
    return Manifest.from_utterances(rows)


def adopt_rooms(folder: Path, final_folder: Path, root: Path, *, files: list[Found], splits: list[str]) -> Manifest:
    """Write the user's responses, at 16 kHz and cut at the direct path, into the pool, and return its manifest.

    Raises:
        AudioError: a response is silent.
    """
    folder.mkdir(parents=True)
    rows = []
    for index, (file, split) in enumerate(zip(files, splits, strict=True)):
        wave, rate_hz = read_audio(file.sound.source)
        wave = resample(wave, rate_hz, RATE_HZ)
        if not wave.any():
            raise AudioError(f"{file.sound.source}: is silent; it should be a room response")
        rows.append(_keep(folder, final_folder, root, index, from_direct_path(wave, int(np.abs(wave).argmax())), split))
    return Manifest.from_utterances(rows)


def simulate(rng: np.random.Generator) -> Wave:
    """Return the response between two random places of a random shoe box, by image sources.

    Source: Allen & Berkley 1979; sizes and reverberation times as in Miipher-2.
    """
    with _one_thread():
        while True:
            sides = np.array([rng.uniform(*side) for side in SIDES_METRES])
            seconds = rng.uniform(*RT60_SECONDS)
            source, microphone = (rng.uniform(WALL_METRES, sides - WALL_METRES) for _ in range(2))
            distance = float(np.linalg.norm(microphone - source))
            try:
                absorption, max_order = acoustics.inverse_sabine(seconds, sides)
            except ValueError:  # no wall absorbs enough for so short a time in so large a room: take another room
                continue
            if distance < APART_METRES:
                continue
            # A whole number of values from mouth to ear: the direct path is one value, and no part of it is cut off.
            steps = int(distance * RATE_HZ / acoustics.constants.get("c"))
            microphone = source + (microphone - source) * (steps * acoustics.constants.get("c") / RATE_HZ / distance)
            room = acoustics.ShoeBox(sides, RATE_HZ, materials=acoustics.Material(absorption), max_order=max_order)
            room.add_source(source)
            room.add_microphone(microphone)
            room.compute_rir()
            response = np.asarray(room.rir[0][0], dtype=np.float32)
            return from_direct_path(response, steps + acoustics.constants.get("frac_delay_length") // 2)


def from_direct_path(response: Wave, direct: int) -> Float32[np.ndarray, "cut"]:
    """Return `response` from index `direct` on, 1 there, cut where what remains has faded by 60 dB."""
    cut = response[direct:] / response[direct]
    remaining = np.cumsum(np.square(cut[::-1], dtype=np.float64))[::-1]
    return np.ascontiguousarray(cut[: max(1, int((remaining > remaining[0] * 1e-6).sum()))])


def _keep(folder: Path, final_folder: Path, root: Path, index: int, wave: Wave, split: str) -> Utterance:
    name = f"{index:05d}.wav"
    write_audio(folder / name, wave, RATE_HZ, subtype="FLOAT")
    digest = sha256_of(folder / name)
    return Utterance(relative(final_folder / name, root), "room", "none", len(wave) / RATE_HZ, RATE_HZ, digest, split)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let pyroomacoustics sum on one thread, whatever the machine: the bits depend on how many share a sum."""
    before = acoustics.constants.get("num_threads")
    acoustics.constants.set("num_threads", 1)
    try:
        yield
    finally:
        acoustics.constants.set("num_threads", before)
