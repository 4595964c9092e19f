"""The mini model that ships is small enough for Git, complete, and improves what it restores."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from miipher2.cli.restore import SHIPPED
from miipher2.config.paths import ROOT
from miipher2.evaluation.metrics.registry import measure
from miipher2.evaluation.metrics.signals import Signal, SignalPair
from miipher2.inference.restorer import Restorer

CLIPS = sorted((ROOT / "data/embedded").rglob("*.flac"))[::40]


def read_with_noise(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return an embedded recording, and the same with white noise at 5 dB."""
    clean, _ = sf.read(path, dtype="float32")
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    return clean, clean + noise * np.sqrt(np.square(clean).mean() / np.square(noise).mean() / 10**0.5)


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """The shipped model."""
    return Restorer.from_bundle(ROOT / SHIPPED, root=ROOT)


def test_shipped_files_take_at_most_20_mb() -> None:
    sizes = {path: path.stat().st_size for path in (ROOT / "models/mini").rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 20e6, sizes


def test_bundle_includes_the_shipped_encoder_and_its_lineage() -> None:
    description = json.loads((ROOT / SHIPPED / "bundle.json").read_text())
    assert description["encoder"] == "included"
    assert description["settings"]["hubert_model_name"] == "exp/encoder_mini"
    assert set(description["lineage"]) >= {"adapter", "vocoder"}


def test_noise_is_reduced_and_the_length_kept(restorer: Restorer) -> None:
    clean, degraded = read_with_noise(CLIPS[0])
    restored = restorer(degraded, 16_000)
    assert len(restored) == len(degraded)
    assert np.isfinite(restored).all()
    frames = np.square(clean[: len(clean) // 320 * 320].reshape(-1, 320)).mean(1)
    quiet = np.repeat(frames < np.quantile(frames, 0.1), 320)
    assert np.square(restored[: len(quiet)][quiet]).mean() < 0.1 * np.square(degraded[: len(quiet)][quiet]).mean()


@pytest.mark.slow
def test_metrics_improve(restorer: Restorer) -> None:
    """Quality, speaker, words and spectrum, for voices like those of the training data in white noise."""
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for path in CLIPS:
        clean, degraded = read_with_noise(path)
        pairs = [
            SignalPair(Signal(clean, 16_000), Signal(other, 16_000)) for other in (degraded, restorer(degraded, 16_000))
        ]
        for metric in ("dnsmos", "distillmos", "estoi", "speaker", "log_spectral_distance"):
            before, after = (measure(metric, pair)[0] for pair in pairs)
            for name in before:
                scores[name].append([before[name], after[name]])
    gain = {name: float(np.diff(np.mean(values, 0))[0]) for name, values in scores.items()}
    assert gain["dnsmos_ovrl"] > 0.8, gain
    assert gain["distillmos"] > 0.2, gain
    assert gain["speaker_cosine"] > 0.08, gain
    assert gain["estoi"] > 0, gain
    assert gain["log_spectral_distance"] < -10, gain
