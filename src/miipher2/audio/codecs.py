"""Codecs in memory: what sound becomes when it is coded and decoded, as long as before and in its place."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from miipher2.audio.io import AudioError, decode_audio, encode_audio
from miipher2.audio.resample import resample

CODECS = ("mp3", "vorbis", "opus", "a_law", "mu_law", "gsm", "adpcm")
# Codecs whose bit rate can be asked for; the others have one.
RATED_CODECS = ("mp3", "vorbis", "opus")


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
    decoded = decode_audio(_CODERS[codec](coded, rate_hz, bit_rate_kbps or 0.0))
    if codec == "mp3" and len(decoded) > len(coded):
        # Where a frame has room for LAME's tag, libsndfile drops the delay itself and the length is exact; otherwise
        # the encoder's 576 values and the decoder's 529 are left in front (measured with libsndfile 1.2.2).
        decoded = decoded[576 + 529 :]
    decoded = np.pad(decoded[: len(coded)], (0, max(0, len(coded) - len(decoded))))
    back = resample(decoded, rate_hz, sample_rate_hz)[: len(wave)]
    return np.pad(back, (0, len(wave) - len(back)))


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
    return encode_audio(wave, rate_hz, "MP3", "MPEG_LAYER_III", min(max(level, 0.0), 0.99))  # it refuses 1.0


def _vorbis(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    # Speech at 16 kHz came out at 32 kbit/s with quality 0 and at 84 with quality 1, the pages' headers not counted.
    quality = (kbps * 16000 / rate_hz - 32) / (84 - 32)
    return encode_audio(wave, rate_hz, "OGG", "VORBIS", 1.0 - min(max(quality, 0.0), 1.0))


def _opus(wave: np.ndarray, rate_hz: int, kbps: int | float) -> bytes:
    level = (256 - kbps) / (256 - 6)  # libsndfile: 6 to 256 kbit/s a channel, linear
    return encode_audio(wave, rate_hz, "OGG", "OPUS", min(max(level, 0.0), 1.0))


def _wav(subtype: str) -> Callable[[np.ndarray, int, int | float], bytes]:
    return lambda wave, rate_hz, _kbps: encode_audio(wave, rate_hz, "WAV", subtype)


_RATED = {"mp3": _mp3, "vorbis": _vorbis, "opus": _opus}
_FIXED = {"a_law": _wav("ALAW"), "mu_law": _wav("ULAW"), "gsm": _wav("GSM610"), "adpcm": _wav("IMA_ADPCM")}
_CODERS: dict[str, Callable[[np.ndarray, int, int | float], bytes]] = {**_RATED, **_FIXED}
