"""The pools that degradations take from: noises and room responses, read when needed."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float32

from miipher2 import audio
from miipher2.data.manifest import Manifest
from miipher2.data.survey import file_digest

RATE_HZ = 16000

Wave = Float32[np.ndarray, "time"]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values used last, up to a number of bytes; the newest stays even if it alone is larger."""

    def __init__(self, limit_mb: int | float, count_bytes: Callable[[Value], int]) -> None:
        self._limit_bytes = limit_mb * 2**20
        self._count_bytes = count_bytes
        self._held_bytes = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made now if it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self._held_bytes += self._count_bytes(value)
        while self._held_bytes > self._limit_bytes and len(self._values) > 1:
            self._held_bytes -= self._count_bytes(self._values.popitem(last=False)[1])
        return value


class Pools:
    """Noises and room responses at 16 kHz, by their number in two manifests."""

    def __init__(self, noises: Manifest, rooms: Manifest, root: Path, *, cache_mb: int | float = 64.0) -> None:
        """Open nothing yet.

        Args:
            noises: any sound files; a split of them, if training is to leave some to the test.
            rooms: responses at 16 kHz whose direct path is their first value, as `prepare` writes them.
            root: what relative paths in the manifests are relative to.
            cache_mb: how many MB of responses are kept in memory.
        """
        self.noises = noises
        self.rooms = rooms
        self._root = root
        self._checked: set[int] = set()
        self._responses: Recent[int, Wave] = Recent(cache_mb, lambda wave: wave.nbytes)

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
        row = self.noises.row(index)
        path = self._root / row.path
        about = audio.info(path)
        if index not in self._checked:  # once a process: a noise may be long, and only a part of it is read
            if file_digest(path) != row.sha256:
                raise audio.AudioError(f"{path}: is not the noise that the manifest has; run prepare_data again")
            self._checked.add(index)
        first = min(int(start_seconds * about.sample_rate_hz), about.samples - 1)
        needed = -(-samples * about.sample_rate_hz // RATE_HZ) + 1
        if first + needed <= about.samples:
            wave, rate_hz = audio.read(path, first, needed)
        else:
            wave, rate_hz = audio.read(path)
            wave = np.resize(np.roll(wave, -first), needed)
        return audio.resample(wave, rate_hz, RATE_HZ)[:samples]

    def _read_response(self, index: int) -> Wave:
        row = self.rooms.row(index)
        path = self._root / row.path
        wave, rate_hz = audio.read(path)
        if rate_hz != RATE_HZ or file_digest(path) != row.sha256:
            raise audio.AudioError(f"{path}: is not the response that the manifest has; run prepare_data again")
        wave.flags.writeable = False
        return wave
