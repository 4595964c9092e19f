"""Decoders: a sound file as blocks of all channels, from its first sample to its last, or an error that names it.

Containers of PCM, FLAC and Ogg with a single stream are read by libsndfile, which seeks to any sample; everything else
by FFmpeg (PyAV), from the start. No length in a header is believed: samples are counted where they are decoded, and a
file that promises more than it holds, or holds more than is decoded, is refused.
"""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from jaxtyping import Float32

from miipher2.audio.container import joined_fault, mp3_fault, ogg_fault, ogg_pages, pcm_fault

SEEKABLE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"riff", b"caff", b"NIST", b"fLaC")
HEADER_SECONDS = ("mov", "matroska", "asf")  # FFmpeg's containers whose header gives the length, not an estimate of it
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")  # between the frames of MP3 files that were joined

Channels = Float32[np.ndarray, "time channel"]


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


class Decoder(ABC):
    """An open sound file; `header_samples` is the length that its header gives, None where no header is believed."""

    sample_rate_hz: int
    channels: int
    header_samples: int | None = None

    def __init__(self, source: AudioSource, file: io.BufferedReader) -> None:
        self.source, self._raw = source, file

    @abstractmethod
    def blocks(self, start_samples: int, block_samples: int) -> Iterator[Channels]:
        """Yield the file from a sample on, once, in blocks of `block_samples`; the last one may be shorter."""

    @abstractmethod
    def find_fault(self) -> str | None:
        """Return how the file differs from what is decoded of it, if it does; where no header counts, after that."""

    @abstractmethod
    def close(self) -> None:
        """Close the decoder, but not the file."""


@contextmanager
def open_decoder(source: AudioSource) -> Iterator[Decoder]:
    """Open a sound file.

    Raises:
        AudioError: the file is missing or not a sound file.
    """
    if isinstance(source, FileSection):
        is_file, state = source.path.is_file(), "cannot be opened, since its file does not exist"
    else:
        is_file = Path(source).is_file()
        state = "is a folder" if Path(source).is_dir() else "does not exist"
    if not is_file:
        raise AudioError(f"{source}: {state}; it should be a sound file")
    with ExitStack() as stack:
        try:
            opened: io.BufferedReader = source.open() if isinstance(source, FileSection) else Path(source).open("rb")  # noqa: SIM115
            file = stack.enter_context(opened)
            if not (magic := file.read(4)):
                raise AudioError(f"{source}: holds no audio (zero length); it should hold at least one sample")
            is_seekable = magic in SEEKABLE_MAGIC or (
                magic == b"OggS" and sum(page.is_first for page in ogg_pages(file)) == 1
            )
            file.seek(0)
        except OSError as error:
            raise AudioError(f"{source}: cannot be opened ({error}); it should be a sound file") from error
        reason: Exception | None = None
        for open_with in (_Libsndfile, _Ffmpeg) if is_seekable else (_Ffmpeg, _Libsndfile):
            try:
                decoder = stack.enter_context(closing(open_with(source, file)))
                break
            except _CannotOpen as error:
                reason = reason or error
                file.seek(0)
        else:
            raise AudioError(
                f"{source}: cannot be read as sound ({reason}); it should be WAV, FLAC, Ogg, MP3 or M4A, say"
            ) from reason
        yield decoder


def decode(
    decoder: Decoder, block_samples: int, start_samples: int = 0, samples: int | None = None
) -> Iterator[Channels]:
    """Yield a sound file's channels in blocks, in memory that does not grow with its length.

    Args:
        decoder: as opened; it can be decoded once.
        block_samples: length of every block but the last.
        samples: number of samples to read; None: to the end, where the file is checked to be whole.

    Raises:
        AudioError: the file is empty, damaged, cut off, several files joined in a way that hides the later ones,
            shorter than the range, or holds values that are not finite.
    """
    source = decoder.source
    position, end = start_samples, None if samples is None else start_samples + samples
    for block in decoder.blocks(start_samples, block_samples):
        block = block if end is None else block[: end - position]
        if not np.isfinite(block).all():
            index, channel = np.argwhere(~np.isfinite(block))[0]
            raise AudioError(
                f"{source}: holds {block[index, channel]} at value {position + index} of channel {channel}; "
                "should be finite"
            )
        position += len(block)
        yield block
        if position == end:
            return
    if end is not None:
        raise AudioError(f"{source}: holds {position} samples; should hold {start_samples} to {end}")
    if position == start_samples:
        raise AudioError(f"{source}: holds no audio (zero length); it should hold at least one sample")
    if decoder.header_samples is not None and position < decoder.header_samples:
        raise AudioError(f"{source}: ends after {position} samples; its header promises more")
    if (fault := decoder.find_fault()) is not None:
        raise AudioError(f"{source}: {fault}")


def soundfile_name(path: Path | str) -> str | bytes:
    """Return a path as soundfile takes it: as bytes where its name is not UTF-8."""
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


class _CannotOpen(Exception):
    """This decoder cannot open the file; another one may."""


class _Libsndfile(Decoder):
    def __init__(self, source: AudioSource, file: io.BufferedReader) -> None:
        super().__init__(source, file)
        try:
            self._file = soundfile.SoundFile(file if isinstance(source, FileSection) else soundfile_name(source))
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless format, .raw by its suffix
            raise _CannotOpen(str(error)) from error
        if not 0 < self._file.frames < 2**62:  # no audio, or a header written before the length was known
            self._file.close()
            raise _CannotOpen("unknown length")
        self.sample_rate_hz, self.channels = int(self._file.samplerate), int(self._file.channels)
        self.header_samples = self._file.frames

    def blocks(self, start_samples: int, block_samples: int) -> Iterator[Channels]:
        position = start_samples
        try:
            if start_samples < self._file.frames:
                self._file.seek(start_samples)
                while len(block := self._file.read(block_samples, dtype="float32", always_2d=True)):
                    position += len(block)
                    yield block
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.source}: cannot be read after {position} samples ({error})") from error

    def find_fault(self) -> str | None:
        bytes_per_second = 2 * self.channels * self.sample_rate_hz
        if self._file.format == "FLAC" and (samples := _flac_samples(self._raw)) > self._file.frames:
            return f"holds {samples} samples; its header counts {self._file.frames}, which should be all"
        return (
            pcm_fault(self._file.extra_info, self._raw, self._file.frames, bytes_per_second)
            or (ogg_fault(self._raw) if self._file.format == "OGG" else None)
            or joined_fault(self._raw)
        )

    def close(self) -> None:
        self._file.close()


class _Ffmpeg(Decoder):
    def __init__(self, source: AudioSource, file: io.BufferedReader) -> None:
        import av

        super().__init__(source, file)
        self._av = av
        try:
            self._container = av.open(file, "r", metadata_errors="ignore")
        except (av.FFmpegError, OSError) as error:
            raise _CannotOpen(error.strerror if isinstance(error, av.FFmpegError) else str(error)) from error
        if not self._container.streams.audio or not self._container.streams.audio[0].codec_context.sample_rate:
            self._container.close()
            raise _CannotOpen("it holds no audio stream")
        self._stream = self._container.streams.audio[0]
        self.sample_rate_hz = int(self._stream.codec_context.sample_rate)
        self.channels = int(self._stream.codec_context.channels)
        self._packets = self._samples = 0

    def blocks(self, start_samples: int, block_samples: int) -> Iterator[Channels]:
        pending: list[Channels] = []
        held, skip = 0, start_samples
        for frame in self._frames():
            self._samples += len(frame)
            frame, skip = frame[skip:], max(0, skip - len(frame))
            pending.append(frame)
            held += len(frame)
            if held >= block_samples:
                joined = np.concatenate(pending)
                whole = held - held % block_samples
                for first in range(0, whole, block_samples):
                    yield joined[first : first + block_samples]
                pending, held = [joined[whole:]], held - whole
        if held:
            yield np.concatenate(pending)

    def _frames(self) -> Iterator[Channels]:
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except self._av.error.InvalidDataError:
                    if bytes(packet).startswith(TAGS) or not any(bytes(packet)):  # tags and padding
                        continue
                    raise
                self._packets += packet.size > 0
                for frame in frames:
                    form = (frame.sample_rate, frame.layout.nb_channels)
                    if form != (self.sample_rate_hz, self.channels):
                        raise AudioError(
                            f"{self.source}: changes from {self.sample_rate_hz} Hz and {self.channels} channels to "
                            f"{form[0]} Hz and {form[1]} after {self._samples} samples; it should be split there"
                        )
                    yield _to_float(frame.to_ndarray(), self.channels, frame.format.is_planar)
        except (self._av.FFmpegError, OSError) as error:
            seconds = self._samples / self.sample_rate_hz
            raise AudioError(
                f"{self.source}: is damaged or cut off after {seconds:.2f} s ({error.strerror}); it should be whole"
            ) from error

    def find_fault(self) -> str | None:
        name, stream = self._container.format.name, self._stream
        seconds, length = self._samples / self.sample_rate_hz, None
        if name.startswith(HEADER_SECONDS):
            if stream.duration:
                length = float(stream.duration * (stream.time_base or 1))
            elif self._container.duration and len(self._container.streams) == 1:
                length = self._container.duration / self._av.time_base
        if length is not None and seconds < length - 0.1:
            return f"is cut off after {seconds:.2f} s; its header promises {length:.2f} s"
        return (
            (mp3_fault(self._raw, self._packets) if name == "mp3" else None)
            or (ogg_fault(self._raw) if name == "ogg" else None)
            or joined_fault(self._raw)
        )

    def close(self) -> None:
        self._container.close()


def _flac_samples(file: io.BufferedReader) -> int:
    """Return the number of samples in the frames of a FLAC file, without decoding them; 0 if they cannot be told."""
    import av

    file.seek(0)
    try:
        with av.open(file, "r", "flac", metadata_errors="ignore") as container:
            ends = ((packet.pts or 0) + (packet.duration or 0) for packet in container.demux() if packet.size)
            return max(ends, default=0)
    except av.FFmpegError:
        return 0


def _to_float(values: np.ndarray, channels: int, is_planar: bool) -> Channels:
    """Return FFmpeg's samples, of any format, as float32 in [-1, 1)."""
    values = values.T if is_planar else values.reshape(-1, channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return (values / 2.0 ** (8 * values.dtype.itemsize - 1)).astype(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)


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
