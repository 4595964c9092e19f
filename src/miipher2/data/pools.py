"""The pools that degradations read: noises, room responses and voices, opened on demand."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.decode import AudioError
from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.data.lru_cache import LruCache
from miipher2.data.manifest import Manifest

Wave = Float32[np.ndarray, "time"]


class Pools:
    """Noises, room responses and voices, by their number in their manifests.

    Args:
        noises: sound files of any rate and length.
        rooms: responses at 16 kHz that start at the direct path, as the stage prepare_data writes them.
        root: what relative paths in the manifests are relative to.
        voices: clean speech that babble is mixed from; in training never a held-out voice.
        cache_mb: memory for room responses.
    """

    def __init__(
        self,
        noises: Manifest,
        rooms: Manifest,
        root: Path,
        *,
        voices: Manifest | None = None,
        cache_mb: int | float = 64.0,
    ) -> None:
        self.noises = noises
        self.rooms = rooms
        self.voices = Manifest.from_utterances([]) if voices is None else voices
        self._root = root
        # Flags by number, not a set of names: the size stays fixed.
        self._is_noise_checked = np.zeros(len(self.noises), dtype=bool)
        self._is_voice_checked = np.zeros(len(self.voices), dtype=bool)
        self._responses: LruCache[int, Wave] = LruCache(cache_mb, lambda wave: wave.nbytes)

    def read_response(self, index: int) -> Wave:
        """Return a room response, read-only.

        Raises:
            AudioError: the file is missing or differs from the manifest.
        """
        return self._responses.get(index, lambda: self._decode_response(index))

    def read_noise(self, index: int, start_seconds: float, samples: int) -> Wave:
        """Return `samples` samples at 16 kHz of a noise, which repeats where it ends.

        Args:
            start_seconds: before the end of the noise.

        Raises:
            AudioError: the file is missing or differs from the manifest.
        """
        wave, rate_hz = self._excerpt(self.noises, self._is_noise_checked, "noise", index, start_seconds, samples)
        return resample(wave, rate_hz, SAMPLE_RATE_HZ)[:samples]

    def read_voice(self, index: int, start: float, samples: int) -> tuple[Wave, int]:
        """Return as much of a voice as `samples` samples at 16 kHz last, and its sample rate in Hz.

        Args:
            start: relative to the utterance's length, from 0 to 1.

        Raises:
            AudioError: the file is missing or differs from the manifest.
        """
        start_seconds = start * self.voices.row(index).seconds
        return self._excerpt(self.voices, self._is_voice_checked, "voice", index, start_seconds, samples)

    def _excerpt(
        self,
        pool: Manifest,
        is_checked: Bool[np.ndarray, "row"],
        name: str,
        index: int,
        start_seconds: float,
        samples: int,
    ) -> tuple[Wave, int]:
        row = pool.row(index)
        source = row.source(self._root)
        rate_hz, length = row.sample_rate_hz, round(row.seconds * row.sample_rate_hz)
        if not is_checked[index]:  # once per process: a file may be long, and only a part of it is read
            if sha256_of(source) != row.sha256:
                raise AudioError(f"{source}: is not the {name} of the manifest; run prepare_data again")
            is_checked[index] = True
        first = min(int(start_seconds * rate_hz), length - 1)
        count = -(-samples * rate_hz // SAMPLE_RATE_HZ) + 1
        if first + count <= length:
            return read_audio(source, first, count)
        wave, _ = read_audio(source)
        return np.resize(np.roll(wave, -first), count), rate_hz

    def _decode_response(self, index: int) -> Wave:
        row = self.rooms.row(index)
        source = row.source(self._root)
        wave, rate_hz = read_audio(source)
        if rate_hz != SAMPLE_RATE_HZ or sha256_of(source) != row.sha256:
            raise AudioError(f"{source}: is not the response of the manifest; run prepare_data again")
        wave.flags.writeable = False
        return wave
