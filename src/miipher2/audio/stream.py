"""Recordings block by block, all channels: read forwards any number of times, written whole or not at all."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from jaxtyping import Float32

from miipher2.atomic_io import replace_durably, sha256_of, temporary_name
from miipher2.audio.decode import AudioError, decode, open_decoder, soundfile_name
from miipher2.audio.io import read_info

BLOCK_SECONDS = 5
WRITE_SAMPLES = 65_536  # at once: a long block of Vorbis overflows libsndfile's stack
# By suffix: libsndfile's names of the file format and the sample format.
FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
MAX_WAV_BYTES = 2**32 - 2**16  # sizes in its header have 32 bits; RF64 is the same format with 64


class Recording:
    """A sound file to read block by block.

    Raises:
        AudioError: the file is missing, not a sound file, or empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        info = read_info(path)
        self.sample_rate_hz, self.channels, self.samples = info.sample_rate_hz, info.channels, info.samples

    def blocks(self) -> Iterator[Float32[np.ndarray, "channel time"]]:
        """Yield the file from its start, in blocks whose length depends on the sample rate only.

        Raises:
            AudioError: the file is damaged, shorter than its header promises, or not finite; names the position.
        """
        with open_decoder(self.path) as decoder:
            if (decoder.sample_rate_hz, decoder.channels) != (self.sample_rate_hz, self.channels):
                raise AudioError(f"{self.path}: has changed; it should be left alone until it is done")
            for block in decode(decoder, BLOCK_SECONDS * self.sample_rate_hz):
                yield np.ascontiguousarray(block.T)


class RecordingWriter:
    """Writes a sound file block by block under a temporary name; it gets its name once it is complete on disk.

    As a context manager it commits the file at the end, or discards it after an exception.

    Args:
        path: `.wav` or `.flac` (16 bit, clipped to [-1, 1]) or `.ogg` (Vorbis).
        samples: number of samples per channel that will be written.
        writer_id: part of the temporary name; random by default.

    Raises:
        AudioError: the suffix, rate or number of channels cannot be written.
    """

    def __init__(
        self, path: Path | str, sample_rate_hz: int, channels: int, samples: int, writer_id: str | None = None
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in FORMATS:
            raise AudioError(f"{path}: should end in {', '.join(FORMATS)}")
        sound_format, subtype = FORMATS[self.path.suffix.lower()]
        if sound_format == "WAV" and samples * channels * 2 > MAX_WAV_BYTES:
            sound_format = "RF64"
        self.temporary = self.path.with_name(temporary_name(self.path.name, writer_id or uuid.uuid4().hex))
        self.sha256 = ""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = soundfile.SoundFile(
                soundfile_name(self.temporary), "w", sample_rate_hz, channels, format=sound_format, subtype=subtype
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            self.temporary.unlink(missing_ok=True)
            raise AudioError(f"{path}: {channels} channels at {sample_rate_hz} Hz: {error}") from error

    def write(self, block: Float32[np.ndarray, "channel time"]) -> None:
        """Append a block.

        Raises:
            AudioError: it cannot be written, on a full disk for example.
        """
        try:
            for start in range(0, block.shape[1], WRITE_SAMPLES):
                self._file.write(np.ascontiguousarray(block[:, start : start + WRITE_SAMPLES].T))
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.path}: cannot be written: {error}") from error

    def finish(self) -> None:
        """Give the file its name, and set `sha256` to the digest of its bytes.

        Raises:
            AudioError: it cannot be completed; an earlier file of that name stays.
        """
        try:
            self._file.close()
            self.sha256 = sha256_of(self.temporary)
            replace_durably(self.temporary, self.path)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.path}: cannot be written: {error}") from error
        finally:
            self.temporary.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Discard what was written; an earlier file of that name stays."""
        try:
            self._file.close()
        finally:
            self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error_type is None:
            self.finish()
        else:
            self.abandon()
