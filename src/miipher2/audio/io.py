"""Sound files read and written whole or in parts, also from within a tar; stereo is read as its channels' mean."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from miipher2.atomic_io import write_atomically
from miipher2.audio.decode import AudioError, AudioSource, decode, open_decoder

BLOCK_SAMPLES = 2**20  # at once, where the length is unknown


@dataclass(frozen=True)
class AudioInfo:
    """The form of a sound file; `samples` counts those of one channel."""

    seconds: float
    samples: int
    sample_rate_hz: int
    channels: int


def read_info(source: AudioSource) -> AudioInfo:
    """Return a sound file's length, rate and channels; a compressed file is decoded, since no header is believed.

    Raises:
        AudioError: as `decode`.
    """
    with open_decoder(source) as decoder:
        if decoder.header_samples is None:
            samples = sum(len(block) for block in decode(decoder, BLOCK_SAMPLES))
        else:
            samples = decoder.header_samples
            if (fault := decoder.find_fault()) is not None:
                raise AudioError(f"{source}: {fault}")
        return AudioInfo(samples / decoder.sample_rate_hz, samples, decoder.sample_rate_hz, decoder.channels)


def read_audio(
    source: AudioSource, start_samples: int = 0, samples: int | None = None
) -> tuple[Float32[np.ndarray, "time"], int]:
    """Return a sound file as one channel, and its sample rate in Hz.

    Args:
        start_samples: first sample to read.
        samples: number of samples to read; None: to the end.

    Raises:
        AudioError: as `decode`.
    """
    with open_decoder(source) as decoder:
        size = samples or decoder.header_samples or BLOCK_SAMPLES
        blocks = [to_mono(block) for block in decode(decoder, size, start_samples, samples)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), decoder.sample_rate_hz


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


def to_mono(channels: Float32[np.ndarray, "time channel"]) -> Float32[np.ndarray, "time"]:
    """Return the mean of a recording's channels."""
    wave = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(wave)
