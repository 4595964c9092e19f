"""Metrics whose work a library does: quality, intelligibility, speaker, pitch, words. Imported when used."""

import contextlib
import io
import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from miipher2.evaluation.metrics import asr as recogniser
from miipher2.evaluation.metrics.signals import RATE_HZ, Skipped, Sounds, Voice

VOICED_FRAMES = 5
LANGUAGE = "en"  # the only one that the recogniser knows


def si_sdr(sounds: Sounds) -> dict[str, float]:
    """Return the scale-invariant signal-to-distortion ratio in dB.

    Source: Le Roux et al. 2019, "SDR: half-baked or well done?" (arXiv:1811.02508).
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as ratio

    clean, other = (torch.from_numpy(np.asarray(wave, np.float64)) for wave in sounds.aligned)
    return {"si_sdr": float(ratio(other, clean))}


def estoi(sounds: Sounds) -> dict[str, float]:
    """Return the extended short-time objective intelligibility.

    Source: Jensen and Taal 2016, "An algorithm for predicting the intelligibility of speech masked by modulated noise".
    """
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return {"estoi": float(stoi(*sounds.aligned_16k, RATE_HZ, extended=True))}
        except RuntimeWarning as warning:  # pystoi then answers 1e-5
            raise Skipped("fewer than 30 frames of speech") from warning


def pesq(sounds: Sounds) -> dict[str, float]:
    """Return PESQ, wide-band (ITU-T P.862.2)."""
    import pesq as library

    try:
        return {"pesq": float(library.pesq(RATE_HZ, *sounds.aligned_16k, "wb"))}
    except (library.PesqError, ValueError) as error:
        said = error.args[0] if error.args else "no reason given"
        raise Skipped(said.decode() if isinstance(said, bytes) else str(said)) from error


def pitch(sounds: Sounds) -> dict[str, float]:
    """Return the pitch error in cents over frames voiced in both, and the share of frames voiced in one only."""
    clean, other = (_pitch(wave) for wave in sounds.aligned_16k)
    voiced = (clean > 0) & (other > 0)
    values = {"voicing_error": float(((clean > 0) != (other > 0)).mean())}
    if not (clean > 0).any():
        raise Skipped("no voiced frame in the clean recording")
    if voiced.sum() >= VOICED_FRAMES:
        values["pitch_error"] = float(np.median(np.abs(1200.0 * np.log2(other[voiced] / clean[voiced]))))
    return values


def dnsmos(sounds: Sounds) -> dict[str, float]:
    """Return DNSMOS P.835 (signal, background, overall) and P.808.

    Source: Reddy et al. 2022, DNSMOS P.835 (arXiv:2110.01763).
    """
    from speechmos import dnsmos as library

    found = library.run(sounds.other.at_16k, sr=RATE_HZ)
    return {f"dnsmos_{name}": float(found[f"{name}_mos"]) for name in ("sig", "bak", "ovrl", "p808")}


def distillmos(sounds: Sounds) -> dict[str, float]:
    """Return DistillMOS.

    Source: Stahl and Gamper 2025, "Distillation and pruning for scalable self-supervised representation-based speech
    quality assessment" (arXiv:2502.05356).
    """
    with torch.inference_mode():
        return {"distillmos": float(_distillmos()(torch.from_numpy(sounds.other.at_16k)[None]))}


def speaker(sounds: Sounds) -> dict[str, float]:
    """Return the cosine between the speaker embeddings of both voices (GE2E).

    Source: Wan et al. 2018, "Generalized end-to-end loss for speaker verification" (arXiv:1710.10467).
    """
    return {"speaker_cosine": float(np.dot(_embedding(sounds.reference), _embedding(sounds.other)))}


def characters(sounds: Sounds) -> dict[str, float]:
    """Return the character error rate of what a recogniser hears, against what it hears in the clean recording.

    pocketsphinx is weak, and knows English only: the rate says what changed, not what a listener understands.
    """
    import jiwer

    if sounds.other.language != LANGUAGE:
        raise Skipped(f"the recogniser knows English only; this is '{sounds.other.language or 'unknown'}'")
    heard = []
    for voice in (sounds.reference, sounds.other):
        listen(voice)
        heard.append(voice.kept["words"].result())
    if not heard[0]:
        raise Skipped("the recogniser hears no word in the clean recording")
    return {"character_error": float(jiwer.cer(*heard))}


def listen(voice: Voice) -> None:
    """Start to recognise the words of a recording in English, beside other work."""
    if voice.language == LANGUAGE and "words" not in voice.kept:
        voice.kept["words"] = recogniser.start((voice.at_16k * 32767).astype("<i2").tobytes())


def _pitch(wave: Float[np.ndarray, "time"]) -> Float[np.ndarray, "frame"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pkg_resources will go; torch keeps setuptools below 82
        import pyworld

    values = wave.astype(np.float64)
    coarse, times = pyworld.dio(values, RATE_HZ)
    return pyworld.stonemask(values, coarse, times, RATE_HZ)


@lru_cache(maxsize=1)
def _distillmos() -> Any:
    import distillmos as library

    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        return library.ConvTransformerSQAModel().eval()


def _embedding(voice: Voice) -> Any:
    if "embedding" not in voice.kept:
        level = math.sqrt(float(np.square(voice.at_16k).mean()))
        if level == 0.0:
            raise Skipped("silent")
        # -30 dB, the level that its own preprocessing brings recordings to.
        wave = np.clip(voice.at_16k * (10.0**-1.5 / level), -1.0, 1.0).astype(np.float32)
        voice.kept["embedding"] = _speaker_encoder().embed_utterance(wave)
    return voice.kept["embedding"]


@lru_cache(maxsize=1)
def _speaker_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    with torch.random.fork_rng(devices=[]):
        return VoiceEncoder("cpu", verbose=False)
