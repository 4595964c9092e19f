"""Sound files read and written whole or in parts, also from within a tar; stereo is read as its channels' mean."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from jaxtyping import Float32

from miipher2.atomic_io import write_atomically


class AudioError(ValueError):
    """A sound file or wave that cannot be used; the message names it, what it is and what it should be."""


@dataclass(frozen=True)
class FileSection:
    """A range of bytes in a file, such as a member of a tar."""

    path: Path
    offset_bytes: int
    size_bytes: int
    member: str

    def open(self) -> io.BufferedReader:
        """Open the range as a file of its own."""
        return io.BufferedReader(_SectionReader(self.path.open("rb"), self.offset_bytes, self.size_bytes), 2**16)

    def __str__(self) -> str:
        return f"{self.path}:{self.member}"


AudioSource = Path | FileSection | str


@dataclass(frozen=True)
class AudioInfo:
    """The header of a sound file; `samples` counts those of one channel."""

    seconds: float
    samples: int
    sample_rate_hz: int
    channels: int


def read_info(source: AudioSource) -> AudioInfo:
    """Return a sound file's length, rate and channels without decoding it.

    Raises:
        AudioError: the file is missing, not a sound file, or empty.
    """
    with _open_sound(source) as file:
        return AudioInfo(file.frames / file.samplerate, file.frames, file.samplerate, file.channels)


def read_audio(
    source: AudioSource, start_samples: int = 0, samples: int | None = None
) -> tuple[Float32[np.ndarray, "time"], int]:
    """Return a sound file as one channel, and its sample rate in Hz.

    Args:
        start_samples: first sample to read.
        samples: number of samples to read; None: to the end.

    Raises:
        AudioError: the file is missing, unreadable, empty, damaged, shorter than the range, or not finite.
    """
    with _open_sound(source) as file:
        count = file.frames - start_samples if samples is None else samples
        if start_samples < 0 or count < 1 or start_samples + count > file.frames:
            end = start_samples + count
            raise AudioError(f"{source}: holds {file.frames} samples; should hold {start_samples} to {end}")
        file.seek(start_samples)
        channels = file.read(count, dtype="float32", always_2d=True)
        rate_hz = int(file.samplerate)
    _check_complete(source, start_samples + len(channels), start_samples + count)
    return _to_mono(source, channels), rate_hz


def read_blocks(source: AudioSource, block_samples: int) -> Iterator[Float32[np.ndarray, "time"]]:
    """Yield a sound file as one channel in blocks, in memory that does not grow with its length.

    Raises:
        AudioError: as `read_audio`.
    """
    with _open_sound(source) as file:
        for start in range(0, file.frames, block_samples):
            count = min(block_samples, file.frames - start)
            channels = file.read(count, dtype="float32", always_2d=True)
            _check_complete(source, start + len(channels), start + count)
            yield _to_mono(source, channels)


def write_audio(
    path: Path | str,
    wave: Float32[np.ndarray, "time"] | Float32[np.ndarray, "channel time"],
    sample_rate_hz: int,
    subtype: str | None = None,
) -> None:
    """Write a sound file atomically, in its suffix's format; equal input gives equal bytes in WAV and FLAC.

    Args:
        subtype: libsndfile's name of the sample format, such as "FLOAT"; None: the format's default, 16 bit in WAV and
            FLAC, which clips to [-1, 1].

    Raises:
        AudioError: the wave is empty or not finite, or the format cannot be written.
    """
    path = Path(path)
    if wave.size == 0 or not np.isfinite(wave).all():
        state = "is empty" if wave.size == 0 else "holds values that are not finite"
        raise AudioError(f"{path}: the wave to write {state}; it should hold finite values in [-1, 1]")
    sound_format = {".OPUS": "OGG", ".OGA": "OGG", ".AIF": "AIFF"}.get(path.suffix.upper(), path.suffix.upper()[1:])
    subtype = "OPUS" if subtype is None and path.suffix.lower() == ".opus" else subtype
    if sound_format not in soundfile.available_formats():
        raise AudioError(f"{path}: cannot be written with the suffix '{path.suffix}'; should be .wav or .flac, say")
    try:
        encoded = encode_audio(wave.T, sample_rate_hz, sound_format, subtype)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            f"{path}: cannot be written at {sample_rate_hz} Hz as {subtype or 'default'}: {error}"
        ) from error
    write_atomically(path, encoded)


def encode_audio(
    samples: np.ndarray, rate_hz: int, sound_format: str, subtype: str | None, compression_level: float | None = None
) -> bytes:
    """Return samples, [time] or [time channel], as the bytes of a sound file; equal input gives equal bytes in WAV."""
    file = io.BytesIO()
    mode = "CONSTANT" if sound_format == "MP3" and compression_level is not None else None
    soundfile.write(
        file, samples, rate_hz, subtype, format=sound_format, compression_level=compression_level, bitrate_mode=mode
    )
    encoded = bytearray(file.getvalue())
    peak = encoded.find(b"PEAK", 0, 256)
    if sound_format.startswith("WAV") and peak >= 0:
        # Chunk name, size and version, then a timestamp that would make equal sounds differ.
        encoded[peak + 12 : peak + 16] = bytes(4)
    return bytes(encoded)


def decode_audio(encoded: bytes) -> Float32[np.ndarray, "time"]:
    """Return the samples of a sound file's bytes, which hold one channel."""
    return soundfile.read(io.BytesIO(encoded), dtype="float32")[0]


def soundfile_name(path: Path | str) -> str | bytes:
    """Return a path as soundfile takes it: as bytes where its name is not UTF-8."""
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


@contextmanager
def _open_sound(source: AudioSource) -> Iterator[soundfile.SoundFile]:
    """Open a sound file that is not empty."""
    context: Any
    if isinstance(source, FileSection):
        try:
            context = source.open()
        except OSError as error:
            raise AudioError(f"{source}: cannot be opened ({error}); it should be a part of a file") from error
    elif Path(source).is_file():
        context = nullcontext(soundfile_name(source))
    else:
        state = "is a folder" if Path(source).is_dir() else "does not exist"
        raise AudioError(f"{source}: {state}; it should be a sound file")
    try:
        with context as opened, soundfile.SoundFile(opened) as file:
            if file.frames < 1:
                raise AudioError(f"{source}: holds no audio (zero length); it should hold at least one sample")
            yield file
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless format, .raw by its suffix
        raise AudioError(f"{source}: cannot be read as sound ({error}); it should be WAV, FLAC, OGG or MP3") from error


def _check_complete(source: AudioSource, end: int, expected_end: int) -> None:
    if end != expected_end:
        raise AudioError(f"{source}: ends after {end} samples; its header promises more")


def _to_mono(source: AudioSource, channels: Float32[np.ndarray, "time channel"]) -> Float32[np.ndarray, "time"]:
    wave = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise AudioError(f"{source}: holds values that are not finite (NaN or infinity); they should lie in [-1, 1]")
    return np.ascontiguousarray(wave)


class _SectionReader(io.RawIOBase):
    """A range of bytes in a file as a file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(memoryview(buffer)[:size])  # type: ignore[attr-defined]
        self._position += count
        return int(count)

    def close(self) -> None:
        self._file.close()
        super().close()
