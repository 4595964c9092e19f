"""Lossy codecs in memory: encode and decode a wave, aligned with the original and as long."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from miipher2.audio.decode import AudioError
from miipher2.audio.io import decode_audio, encode_audio
from miipher2.audio.resample import resample
from miipher2.config.schema_data import CODECS

# Codecs with a choice of bit rates.
BIT_RATE_CODECS = ("mp3", "vorbis", "opus")


def apply_codec(
    wave: Float32[np.ndarray, "time"], sample_rate_hz: int, codec: str, bit_rate_kbps: int | float | None = None
) -> Float32[np.ndarray, "time"]:
    """Return a wave encoded and decoded in memory: a new array, aligned with `wave` and as long.

    A-law, mu-law and GSM 6.10 are telephone codecs and run at 8 kHz; Opus runs at 48 kHz for rates that it does not
    support, and its output may then lead by two samples. ADPCM is IMA's.

    Args:
        wave: in [-1, 1]; values beyond are clipped, as a codec does.
        codec: one of `CODECS`.
        bit_rate_kbps: of MP3, Vorbis and Opus, rounded to what the codec supports; the other codecs ignore it. Vorbis
            has a quality instead, chosen by its usual bit rate for speech.

    Raises:
        AudioError: the codec is unknown, its bit rate is missing, or the wave is not finite.
    """
    if codec not in CODECS:
        raise AudioError(f"codec '{codec}': should be one of {', '.join(CODECS)}")
    if codec in BIT_RATE_CODECS and bit_rate_kbps is None:
        raise AudioError(f"codec '{codec}' without a bit rate; should have one in kbit/s")
    if not np.isfinite(wave).all():
        raise AudioError(f"the wave for codec '{codec}' is not finite; should lie in [-1, 1]")
    rate_hz = _codec_rate_hz(codec, sample_rate_hz)
    original = resample(np.clip(wave, -1.0, 1.0), sample_rate_hz, rate_hz)
    if len(original) == 0:
        return np.zeros_like(wave)
    decoded = decode_audio(_ENCODERS[codec](original, rate_hz, bit_rate_kbps or 0.0))
    if codec == "mp3" and len(decoded) > len(original):
        # libsndfile removes the delay itself where a frame has room for LAME's tag. Otherwise the encoder's 576 and the
        # decoder's 529 samples remain in front (measured with libsndfile 1.2.2).
        decoded = decoded[576 + 529 :]
    decoded = np.pad(decoded[: len(original)], (0, max(0, len(original) - len(decoded))))
    result = resample(decoded, rate_hz, sample_rate_hz)[: len(wave)]
    return np.pad(result, (0, len(wave) - len(result)))


def _codec_rate_hz(codec: str, sample_rate_hz: int) -> int:
    if codec in ("a_law", "mu_law", "gsm"):
        return 8000
    if codec == "opus" and sample_rate_hz not in (8000, 12000, 16000, 24000, 48000):
        return 48000
    return sample_rate_hz


def _mp3(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    # libsndfile maps its compression level linearly to the bit rates of the MPEG version that the sample rate implies.
    low, high = (32, 320) if rate_hz >= 32000 else (8, 160) if rate_hz >= 16000 else (8, 64)
    level = (high - kbps) / (high - low)
    return encode_audio(wave, rate_hz, "MP3", "MPEG_LAYER_III", min(max(level, 0.0), 0.99))  # 1.0 is refused


def _vorbis(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    # Measured for speech at 16 kHz without page headers: 32 kbit/s at quality 0 and 84 at quality 1.
    quality = (kbps * 16000 / rate_hz - 32) / (84 - 32)
    return encode_audio(wave, rate_hz, "OGG", "VORBIS", 1.0 - min(max(quality, 0.0), 1.0))


def _opus(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    level = (256 - kbps) / (256 - 6)  # libsndfile: 6 to 256 kbit/s per channel, linear
    return encode_audio(wave, rate_hz, "OGG", "OPUS", min(max(level, 0.0), 1.0))


def _wav(subtype: str) -> Callable[[np.ndarray, int, int | float], bytes]:
    return lambda wave, rate_hz, _kbps: encode_audio(wave, rate_hz, "WAV", subtype)


_ENCODERS: dict[str, Callable[[np.ndarray, int, int | float], bytes]] = {
    "mp3": _mp3,
    "vorbis": _vorbis,
    "opus": _opus,
    "a_law": _wav("ALAW"),
    "mu_law": _wav("ULAW"),
    "gsm": _wav("GSM610"),
    "adpcm": _wav("IMA_ADPCM"),
}
