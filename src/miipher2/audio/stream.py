"""Sound files block by block, channels kept: read forwards as often as wanted, written whole or not at all."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from jaxtyping import Float32

from miipher2.atomic_io import replace_durably, sha256_of
from miipher2.audio.io import AudioError, read_info, soundfile_name

BLOCK_SECONDS = 5
# Suffix → libsndfile's names of the file format and the sample format.
FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
LARGEST_WAV_BYTES = 2**32 - 2**16  # its header counts in 32 bits; RF64 is the same with 64


class Recording:
    """A sound file that is read block by block.

    Raises:
        AudioError: the file is missing, is no sound file, or holds no audio.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        found = read_info(path)
        self.sample_rate_hz, self.channels, self.samples = found.sample_rate_hz, found.channels, found.samples

    def blocks(self) -> Iterator[Float32[np.ndarray, "channel time"]]:
        """Yield the file from its beginning, in blocks that do not depend on anything but its rate.

        Raises:
            AudioError: the file is damaged, ends before its header says, or holds NaN or infinity; names the position.
        """
        position = 0
        try:
            with soundfile.SoundFile(soundfile_name(self.path)) as file:
                while position < self.samples:
                    wanted = min(BLOCK_SECONDS * self.sample_rate_hz, self.samples - position)
                    block = file.read(wanted, dtype="float32", always_2d=True).T
                    self._check(block, position, wanted)
                    position += wanted
                    yield np.ascontiguousarray(block)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.path}: cannot be read after {position} values ({error})") from error

    def _check(self, block: Float32[np.ndarray, "channel time"], position: int, wanted: int) -> None:
        if block.shape[1] != wanted:
            raise AudioError(f"{self.path}: ends after {position + block.shape[1]} values; its header promises more")
        if not np.isfinite(block).all():
            channel, place = np.argwhere(~np.isfinite(block))[0]
            raise AudioError(
                f"{self.path}: holds {block[channel, place]} at value {position + place} of channel {channel}; "
                "should be finite"
            )


class RecordingWriter:
    """Writes a sound file block by block under a temporary name beside it; it appears when all is on the disk.

    As a context: leaving it without an error makes the file appear, leaving it with one leaves what was there before.

    Args:
        path: `.wav` or `.flac` (16 bit; values outside [-1, 1] are clipped) or `.ogg` (Vorbis).
        samples: how many values a channel will hold.
        writer_id: part of the temporary name; a random one by default.

    Raises:
        AudioError: nothing can be written with that suffix, rate or number of channels.
    """

    def __init__(
        self, path: Path | str, sample_rate_hz: int, channels: int, samples: int, writer_id: str | None = None
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in FORMATS:
            raise AudioError(f"{path}: should end in {', '.join(FORMATS)}")
        sound_format, subtype = FORMATS[self.path.suffix.lower()]
        if sound_format == "WAV" and samples * channels * 2 > LARGEST_WAV_BYTES:
            sound_format = "RF64"
        self.temporary = self.path.with_name(temporary_name(self.path.name, writer_id or uuid.uuid4().hex))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = soundfile.SoundFile(
                soundfile_name(self.temporary), "w", sample_rate_hz, channels, format=sound_format, subtype=subtype
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            self.temporary.unlink(missing_ok=True)
            raise AudioError(f"{path}: {channels} channels at {sample_rate_hz} Hz: {error}") from error

    def write(self, block: Float32[np.ndarray, "channel time"]) -> None:
        """Add a block.

        Raises:
            AudioError: it cannot be written, for want of room for example.
        """
        try:
            # Vorbis overflows libsndfile's stack when a block is long.
            for start in range(0, block.shape[1], 65_536):
                self._file.write(np.ascontiguousarray(block[:, start : start + 65_536].T))
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.path}: cannot be written: {error}") from error

    def finish(self) -> str:
        """Make the file appear and return the sha256 of its bytes.

        Raises:
            AudioError: what was written cannot be completed; nothing appears.
        """
        try:
            self._file.close()
            digest = sha256_of(self.temporary)
            replace_durably(self.temporary, self.path)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.path}: cannot be written: {error}") from error
        finally:
            self.temporary.unlink(missing_ok=True)
        return digest

    def abandon(self) -> None:
        """Leave what was there before."""
        try:
            self._file.close()
        finally:
            self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()


def temporary_name(name: str, writer_id: str) -> str:
    """Return the name under which a file is written before it appears."""
    return f".{name}.{writer_id}.tmp"
