"""The pools that degradations take from: noises, room responses and voices, read when needed."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.io import AudioError, read_audio, read_info
from miipher2.audio.resample import resample
from miipher2.data.lru_cache import LruCache
from miipher2.data.manifest import Manifest

RATE_HZ = 16000

Wave = Float32[np.ndarray, "time"]


class Pools:
    """Noises, room responses and voices, by their number in their manifests."""

    def __init__(
        self,
        noises: Manifest,
        rooms: Manifest,
        root: Path,
        *,
        voices: Manifest | None = None,
        cache_mb: int | float = 64.0,
    ) -> None:
        """Open nothing yet.

        Args:
            noises: any sound files; a split of them, if training is to leave some to the test.
            rooms: responses at 16 kHz whose direct path is their first value, as `prepare` writes them.
            root: what relative paths in the manifests are relative to.
            voices: clean speech that babble is mixed from: never a held-out voice in training.
            cache_mb: how many MB of responses are kept in memory.
        """
        self.noises = noises
        self.rooms = rooms
        self.voices = Manifest.from_utterances([]) if voices is None else voices
        self._root = root
        # By number and not by name: a fixed size, however many are drawn.
        self._checked_noises = np.zeros(len(self.noises), dtype=bool)
        self._checked_voices = np.zeros(len(self.voices), dtype=bool)
        self._responses: LruCache[int, Wave] = LruCache(cache_mb, lambda wave: wave.nbytes)

    def response(self, index: int) -> Wave:
        """Return room response `index`, read-only.

        Raises:
            AudioError: the file is missing or is not the one of the manifest.
        """
        return self._responses.get(index, lambda: self._read_response(index))

    def noise(self, index: int, start_seconds: float, samples: int) -> Wave:
        """Return `samples` values at 16 kHz of noise `index`, repeated from its beginning where it ends.

        Args:
            start_seconds: where to begin, before the end of the noise.

        Raises:
            AudioError: the file is missing or is not the one of the manifest.
        """
        wave, rate_hz = self._excerpt(self.noises, self._checked_noises, "noise", index, start_seconds, samples)
        return resample(wave, rate_hz, RATE_HZ)[:samples]

    def voice(self, index: int, start: float, samples: int) -> tuple[Wave, int]:
        """Return what lasts `samples` values at 16 kHz of voice `index`, repeated as a noise is, and its rate in Hz.

        Args:
            start: where to begin, as a part of the utterance.

        Raises:
            AudioError: the file is missing or is not the one of the manifest.
        """
        start_seconds = start * self.voices.row(index).seconds
        return self._excerpt(self.voices, self._checked_voices, "voice", index, start_seconds, samples)

    def _excerpt(
        self, pool: Manifest, checked: np.ndarray, kind: str, index: int, start_seconds: float, samples: int
    ) -> tuple[Wave, int]:
        row = pool.row(index)
        source = row.source(self._root)
        about = read_info(source)
        if not checked[index]:  # once a process: a file may be long, and only a part of it is read
            if sha256_of(source) != row.sha256:
                raise AudioError(f"{source}: is not the {kind} that the manifest has; run prepare_data again")
            checked[index] = True
        first = min(int(start_seconds * about.sample_rate_hz), about.samples - 1)
        needed = -(-samples * about.sample_rate_hz // RATE_HZ) + 1
        if first + needed <= about.samples:
            return read_audio(source, first, needed)
        wave, rate_hz = read_audio(source)
        return np.resize(np.roll(wave, -first), needed), rate_hz

    def _read_response(self, index: int) -> Wave:
        row = self.rooms.row(index)
        source = row.source(self._root)
        wave, rate_hz = read_audio(source)
        if rate_hz != RATE_HZ or sha256_of(source) != row.sha256:
            raise AudioError(f"{source}: is not the response that the manifest has; run prepare_data again")
        wave.flags.writeable = False
        return wave
