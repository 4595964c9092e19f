"""Metrics that a library computes: quality, intelligibility, speaker, pitch. Libraries are imported on use."""

import contextlib
import io
import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.evaluation.metrics.signals import Signal, SignalPair, SkippedMetric

MIN_VOICED_FRAMES = 5


def si_sdr(pair: SignalPair) -> dict[str, float]:
    """Return the scale-invariant signal-to-distortion ratio in dB.

    Source: Le Roux et al. 2019, "SDR: half-baked or well done?" (arXiv:1811.02508).
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    clean, measured = (torch.from_numpy(np.asarray(wave, np.float64)) for wave in pair.aligned)
    return {"si_sdr": float(scale_invariant_signal_distortion_ratio(measured, clean))}


def estoi(pair: SignalPair) -> dict[str, float]:
    """Return the extended short-time objective intelligibility.

    Source: Jensen and Taal 2016, "An algorithm for predicting the intelligibility of speech masked by modulated noise".
    """
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return {"estoi": float(stoi(*pair.aligned_16k, SAMPLE_RATE_HZ, extended=True))}
        except RuntimeWarning as warning:  # pystoi would return 1e-5
            raise SkippedMetric("fewer than 30 frames of speech") from warning


def pesq(pair: SignalPair) -> dict[str, float]:
    """Return PESQ, wide-band (ITU-T P.862.2)."""
    import pesq as library

    try:
        return {"pesq": float(library.pesq(SAMPLE_RATE_HZ, *pair.aligned_16k, "wb"))}
    except (library.PesqError, ValueError) as error:
        reason = error.args[0] if error.args else "no reason given"
        raise SkippedMetric(reason.decode() if isinstance(reason, bytes) else str(reason)) from error


def pitch(pair: SignalPair) -> dict[str, float]:
    """Return the pitch error in cents over frames voiced in both, and the share of frames voiced in one only."""
    clean, measured = (_pitch_hz(wave) for wave in pair.aligned_16k)
    if not (clean > 0).any():
        raise SkippedMetric("no voiced frame in the clean recording")
    is_voiced = (clean > 0) & (measured > 0)
    values = {"voicing_error": float(((clean > 0) != (measured > 0)).mean())}
    if is_voiced.sum() >= MIN_VOICED_FRAMES:
        cents = 1200.0 * np.log2(measured[is_voiced] / clean[is_voiced])
        values["pitch_error"] = float(np.median(np.abs(cents)))
    return values


def dnsmos(pair: SignalPair) -> dict[str, float]:
    """Return DNSMOS P.835 (signal, background, overall) and P.808.

    Source: Reddy et al. 2022, DNSMOS P.835 (arXiv:2110.01763).
    """
    from speechmos import dnsmos as library

    scores = library.run(pair.measured.at_16k, sr=SAMPLE_RATE_HZ)
    return {f"dnsmos_{name}": float(scores[f"{name}_mos"]) for name in ("sig", "bak", "ovrl", "p808")}


def distillmos(pair: SignalPair) -> dict[str, float]:
    """Return DistillMOS.

    Source: Stahl and Gamper 2025, "Distillation and pruning for scalable self-supervised representation-based speech
    quality assessment" (arXiv:2502.05356).
    """
    with torch.inference_mode():
        return {"distillmos": float(_distillmos()(torch.from_numpy(pair.measured.at_16k)[None]))}


def speaker(pair: SignalPair) -> dict[str, float]:
    """Return the cosine between the speaker embeddings of both recordings (GE2E).

    Source: Wan et al. 2018, "Generalized end-to-end loss for speaker verification" (arXiv:1710.10467).
    """
    return {"speaker_cosine": float(np.dot(_embedding(pair.reference), _embedding(pair.measured)))}


def _pitch_hz(wave: Float[np.ndarray, "time"]) -> Float[np.ndarray, "frame"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pkg_resources is deprecated; torch requires setuptools below 82
        import pyworld

    values = wave.astype(np.float64)
    coarse, times = pyworld.dio(values, SAMPLE_RATE_HZ)
    return pyworld.stonemask(values, coarse, times, SAMPLE_RATE_HZ)


@lru_cache(maxsize=1)
def _distillmos() -> Any:
    import distillmos as library

    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        return library.ConvTransformerSQAModel().eval()


def _embedding(signal: Signal) -> Any:
    if "embedding" not in signal.cache:
        level = math.sqrt(float(np.square(signal.at_16k).mean()))
        if level == 0.0:
            raise SkippedMetric("silent")
        # -30 dB, the level to which its own preprocessing brings recordings.
        wave = np.clip(signal.at_16k * (10.0**-1.5 / level), -1.0, 1.0).astype(np.float32)
        signal.cache["embedding"] = _speaker_encoder().embed_utterance(wave)
    return signal.cache["embedding"]


@lru_cache(maxsize=1)
def _speaker_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    with torch.random.fork_rng(devices=[]):
        return VoiceEncoder("cpu", verbose=False)
