"""Sound files and sound values: the only file that reads, writes, resamples or codes audio."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float32
from torchaudio.transforms import Resample

# What people keep as sound: a file with one of these suffixes that cannot be read is reported, not skipped.
SOUND_SUFFIXES = frozenset(
    (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".m4a", ".aac", ".wma", ".sph")
)
CODECS = ("mp3", "vorbis", "opus", "a_law", "mu_law", "gsm", "adpcm")
# Codecs whose bit rate can be asked for; the others have one.
RATED_CODECS = ("mp3", "vorbis", "opus")


class AudioError(ValueError):
    """A sound file or wave that cannot be used; the message names it, what it is and what it should be."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file's header says; `samples` counts the values of one channel."""

    seconds: float
    samples: int
    sample_rate_hz: int
    channels: int


def info(path: Path | str) -> AudioInfo:
    """Return length, rate and channels of a sound file without decoding it.

    Raises:
        AudioError: the file is missing, is no sound file, or holds no audio.
    """
    with _opened(path) as file:
        return AudioInfo(file.frames / file.samplerate, file.frames, file.samplerate, file.channels)


def read(
    path: Path | str, start_samples: int = 0, samples: int | None = None
) -> tuple[Float32[np.ndarray, "time"], int]:
    """Return a sound file's values, its channels averaged to one, and its sample rate in Hz.

    Args:
        start_samples: the first value to read, counted in one channel.
        samples: how many values to read; None reads to the end.

    Raises:
        AudioError: the file is missing, unreadable, empty, damaged, shorter than asked for, or holds NaN or infinity.
    """
    with _opened(path) as file:
        wanted = file.frames - start_samples if samples is None else samples
        if start_samples < 0 or wanted < 1 or start_samples + wanted > file.frames:
            asked = f"values {start_samples} to {start_samples + wanted}"
            raise AudioError(f"{path}: holds {file.frames} values; {asked} were asked for")
        file.seek(start_samples)
        channels = file.read(wanted, dtype="float32", always_2d=True)
        rate_hz = int(file.samplerate)
    if len(channels) != wanted:
        raise AudioError(f"{path}: ends after {start_samples + len(channels)} values; its header promises more")
    wave = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise AudioError(f"{path}: holds values that are not finite (NaN or infinity); they should lie in [-1, 1]")
    return np.ascontiguousarray(wave), rate_hz


def write(
    path: Path | str,
    wave: Float32[np.ndarray, "time"] | Float32[np.ndarray, "channel time"],
    sample_rate_hz: int,
    subtype: str | None = None,
) -> None:
    """Write a sound file whole or not at all, in its suffix's format; equal input gives equal bytes in WAV and FLAC.

    Args:
        subtype: libsndfile's name of the sample format, such as "FLOAT"; None takes the format's default, 16 bit in WAV
            and FLAC, which clips values outside [-1, 1].

    Raises:
        AudioError: the wave is empty or not finite, or the suffix or subtype is none that can be written.
    """
    path = Path(path)
    if wave.size == 0 or not np.isfinite(wave).all():
        state = "is empty" if wave.size == 0 else "holds values that are not finite"
        raise AudioError(f"{path}: the wave to write {state}; it should hold finite values in [-1, 1]")
    sound_format = {".OPUS": "OGG", ".OGA": "OGG", ".AIF": "AIFF"}.get(path.suffix.upper(), path.suffix.upper()[1:])
    subtype = "OPUS" if subtype is None and path.suffix.lower() == ".opus" else subtype
    if sound_format not in soundfile.available_formats():
        raise AudioError(f"{path}: cannot write sound with the suffix '{path.suffix}'; use .wav or .flac, say")
    try:
        encoded = _encode(wave.T, sample_rate_hz, sound_format, subtype)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            f"{path}: cannot be written at {sample_rate_hz} Hz as {subtype or 'default'}: {error}"
        ) from error
    _write_whole(path, encoded)


def resample(wave: Float32[np.ndarray, "time"], from_hz: int, to_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Return `wave` at another sample rate, exactly `round(len(wave) * to_hz / from_hz)` values long."""
    if from_hz == to_hz:
        return wave
    length = round(len(wave) * to_hz / from_hz)
    if length == 0:
        return np.zeros(0, dtype=np.float32)
    # One thread, as in a data worker: the bits of a convolution may depend on how many share it.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resampled = _resampler(from_hz, to_hz)(torch.from_numpy(np.array(wave)))
    finally:
        torch.set_num_threads(threads)
    return np.ascontiguousarray(resampled.numpy()[:length])


def through_codec(
    wave: Float32[np.ndarray, "time"], sample_rate_hz: int, codec: str, bit_rate_kbps: int | float | None = None
) -> Float32[np.ndarray, "time"]:
    """Return `wave` coded and decoded again in memory: as long as before, aligned with it, a new array.

    A-law, mu-law and GSM 6.10 are telephone codecs and run at 8 kHz whatever the rate; Opus runs at 48 kHz where it
    does not know the rate, and there its output may lead by two values. ADPCM is IMA's.

    Args:
        wave: values in [-1, 1]; what lies outside is clipped, as a codec does.
        codec: one of `CODECS`.
        bit_rate_kbps: for MP3, Vorbis and Opus; the nearest that the codec has is taken. Vorbis has a quality instead,
            chosen by its usual rate for speech. The other codecs ignore it.
    """
    if codec not in CODECS:
        raise AudioError(f"codec '{codec}' is not known; it should be one of {', '.join(CODECS)}")
    if codec in RATED_CODECS and bit_rate_kbps is None:
        raise AudioError(f"codec '{codec}' needs a bit rate in kbit/s")
    if not np.isfinite(wave).all():
        raise AudioError(f"the wave for codec '{codec}' holds values that are not finite; they should lie in [-1, 1]")
    rate_hz = _codec_rate_hz(codec, sample_rate_hz)
    coded = resample(np.clip(wave, -1.0, 1.0), sample_rate_hz, rate_hz)
    if len(coded) == 0:
        return np.zeros_like(wave)
    decoded = _decode(_CODERS[codec](coded, rate_hz, bit_rate_kbps or 0.0))
    if codec == "mp3" and len(decoded) > len(coded):
        # Where a frame has room for LAME's tag, libsndfile drops the delay itself and the length is exact; otherwise
        # the encoder's 576 values and the decoder's 529 are left in front (measured with libsndfile 1.2.2).
        decoded = decoded[576 + 529 :]
    decoded = np.pad(decoded[: len(coded)], (0, max(0, len(coded) - len(decoded))))
    back = resample(decoded, rate_hz, sample_rate_hz)[: len(wave)]
    return np.pad(back, (0, len(wave) - len(back)))


@contextmanager
def _opened(path: Path | str) -> Iterator[soundfile.SoundFile]:
    """Open a sound file that holds audio."""
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise AudioError(f"{path}: {what}; it should be a sound file")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames < 1:
                raise AudioError(f"{path}: holds no audio (zero length); it should hold at least one value")
            yield file
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless format, .raw by its suffix
        raise AudioError(f"{path}: cannot be read as sound ({error}); it should be WAV, FLAC, OGG or MP3") from error


def _encode(
    values: np.ndarray, rate_hz: int, sound_format: str, subtype: str | None, compression_level: float | None = None
) -> bytes:
    """Return `values`, [time] or [time channel], as the bytes of a sound file."""
    file = io.BytesIO()
    mode = "CONSTANT" if sound_format == "MP3" and compression_level is not None else None
    soundfile.write(
        file, values, rate_hz, subtype, format=sound_format, compression_level=compression_level, bitrate_mode=mode
    )
    encoded = bytearray(file.getvalue())
    peak = encoded.find(b"PEAK", 0, 256)
    if sound_format.startswith("WAV") and peak >= 0:
        # Chunk name, size, version, then the time of writing, which would make equal sounds differ.
        encoded[peak + 12 : peak + 16] = bytes(4)
    return bytes(encoded)


def _decode(encoded: bytes) -> Float32[np.ndarray, "time"]:
    return soundfile.read(io.BytesIO(encoded), dtype="float32")[0]


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> Resample:
    # The sharp Kaiser window of torchaudio's resampling tutorial ("kaiser_best"): aliases below -100 dB.
    return Resample(from_hz, to_hz, "sinc_interp_kaiser", 64, 0.9475937167399596, 14.769656459379492)


def _codec_rate_hz(codec: str, sample_rate_hz: int) -> int:
    if codec in ("a_law", "mu_law", "gsm"):
        return 8000
    if codec == "opus" and sample_rate_hz not in (8000, 12000, 16000, 24000, 48000):
        return 48000
    return sample_rate_hz


def _mp3(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    # libsndfile spreads its compression level linearly over the rates of the MPEG version that the sample rate implies.
    low, high = (32, 320) if rate_hz >= 32000 else (8, 160) if rate_hz >= 16000 else (8, 64)
    level = (high - kbps) / (high - low)
    return _encode(wave, rate_hz, "MP3", "MPEG_LAYER_III", min(max(level, 0.0), 0.99))  # it refuses 1.0


def _vorbis(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    # Speech at 16 kHz came out at 32 kbit/s with quality 0 and at 84 with quality 1, the pages' headers not counted.
    quality = (kbps * 16000 / rate_hz - 32) / (84 - 32)
    return _encode(wave, rate_hz, "OGG", "VORBIS", 1.0 - min(max(quality, 0.0), 1.0))


def _opus(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    level = (256 - kbps) / (256 - 6)  # libsndfile: 6 to 256 kbit/s a channel, linear
    return _encode(wave, rate_hz, "OGG", "OPUS", min(max(level, 0.0), 1.0))


def _wav(subtype: str) -> Callable[[np.ndarray, int, int | float], bytes]:
    return lambda wave, rate_hz, _kbps: _encode(wave, rate_hz, "WAV", subtype)


_RATED = {"mp3": _mp3, "vorbis": _vorbis, "opus": _opus}
_FIXED = {"a_law": _wav("ALAW"), "mu_law": _wav("ULAW"), "gsm": _wav("GSM610"), "adpcm": _wav("IMA_ADPCM")}
_CODERS: dict[str, Callable[[np.ndarray, int, int | float], bytes]] = {**_RATED, **_FIXED}
