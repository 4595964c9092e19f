"""Library metrics are best on clean speech, worse on damaged speech, and the same from run to run."""

import numpy as np
import pytest
from scipy.signal import butter, fftconvolve, sosfiltfilt

from miipher2.audio.io import read_audio
from miipher2.config.paths import ROOT
from miipher2.evaluation.metrics.registry import METRICS, VALUES, measure
from miipher2.evaluation.metrics.signals import Signal, SignalPair
from miipher2.rng import stream

RATE_HZ = 16_000
BEST = {"si_sdr": (80.0, np.inf), "estoi": (0.999, 1.001), "pesq": (4.6, 4.65), "speaker_cosine": (0.9999, 1.0001)}
LIBRARIES = ("si_sdr", "estoi", "pesq", "pitch", "dnsmos", "distillmos", "speaker", "characters")


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    wave, rate_hz = read_audio(ROOT / "data/embedded/en/agent_incorrect.flac")
    assert rate_hz == RATE_HZ
    return wave[: 6 * RATE_HZ]


def damage(clean: np.ndarray, how: str) -> np.ndarray:
    rng = stream(0, how)
    level = float(np.sqrt(np.square(clean).mean()))
    match how:
        case "noise":
            wave = clean + level * 10 ** (-5 / 20) * rng.standard_normal(len(clean))
        case "reverb":
            time = np.arange(RATE_HZ) / RATE_HZ
            response = rng.standard_normal(len(time)) * 10 ** (-3 * time / 1.3)
            wave = fftconvolve(clean, response)[: len(clean)]
            wave *= level / np.sqrt(np.square(wave).mean())
        case "clipping":
            wave = np.clip(clean, -level, level)
        case _:
            wave = sosfiltfilt(butter(8, 3400, fs=RATE_HZ, output="sos"), clean)
    return np.asarray(wave, np.float32)


def values(clean: np.ndarray, other: np.ndarray, *metrics: str, language: str = "en") -> dict[str, float]:
    pair = SignalPair(Signal(clean, RATE_HZ, language), Signal(other, RATE_HZ, language))
    results: dict[str, float] = {}
    for name in metrics:
        measured, skipped = measure(name, pair)
        assert skipped in ({}, {"above_8_khz": "16000 Hz has no such frequencies"})
        results |= measured
    return results


@pytest.mark.slow
def test_clean_speech_has_the_best_values(clean: np.ndarray) -> None:
    results = values(clean, clean, *(name for name in METRICS if not METRICS[name].values.keys() & {"dnsmos_ovrl"}))
    for name, (low, high) in BEST.items():
        assert low <= results.pop(name) <= high, name
    assert 3.0 < results.pop("distillmos") <= 5.0
    assert results == dict.fromkeys(results, 0.0)
    assert {"log_mel", "above_4_khz", "pitch_error", "voicing_error", "character_error"} <= results.keys()


@pytest.mark.slow
def test_metrics_are_worse_for_damaged_speech(clean: np.ndarray) -> None:
    """DNSMOS and ESTOI ignore lost bandwidth; high bands and LSD do not."""
    names = [name for name in METRICS if name != "characters"]
    best = values(clean, clean, *names)
    results = {how: values(clean, damage(clean, how), *names) for how in ("noise", "reverb", "clipping", "low-pass")}
    for how in ("noise", "reverb", "clipping"):
        for name in ("dnsmos_p808", "distillmos", "estoi", "pesq", "si_sdr", "speaker_cosine", "log_mel"):
            assert VALUES[name].worsening(results[how][name] - best[name]) > 0, (how, name)
    # Clipping at the clip's RMS does not change the overall score: 3.249 against 3.245 on this clip.
    for how in ("noise", "reverb"):
        assert results[how]["dnsmos_ovrl"] < best["dnsmos_ovrl"] - 0.5
    assert results["noise"]["above_4_khz"] > 3.0
    assert results["noise"]["voicing_error"] > 0.0
    low = results["low-pass"]
    assert low["above_4_khz"] < -10.0
    assert low["log_spectral_distance"] > 10.0
    assert low["estoi"] > 0.95
    assert abs(low["dnsmos_ovrl"] - best["dnsmos_ovrl"]) < 0.5
    assert low["pesq"] < best["pesq"]


@pytest.mark.slow
def test_measurements_do_not_depend_on_earlier_ones(clean: np.ndarray) -> None:
    clean = clean[: 3 * RATE_HZ]
    noisy = damage(clean, "noise")
    first = values(clean, noisy, *METRICS)
    values(clean, damage(clean, "clipping"), *METRICS)
    assert values(clean, noisy, *METRICS) == first


def test_delay_is_removed_for_metrics_of_aligned_waves(clean: np.ndarray) -> None:
    late = np.pad(clean, (400, 0))[: len(clean)]
    pair = SignalPair(Signal(clean, RATE_HZ), Signal(late, RATE_HZ))
    assert pair.delay_samples == 400
    assert measure("si_sdr", pair)[0]["si_sdr"] > 80.0
    assert measure("estoi", pair)[0]["estoi"] > 0.99
    assert SignalPair(Signal(late, RATE_HZ), Signal(clean, RATE_HZ)).delay_samples == -400
    unrelated = stream(0, "unrelated").standard_normal(len(clean)).astype(np.float32)
    assert SignalPair(Signal(clean, RATE_HZ), Signal(unrelated, RATE_HZ)).delay_samples == 0
    assert SignalPair(Signal(clean, RATE_HZ), Signal(late, RATE_HZ), 0.01).delay_samples != 400


@pytest.mark.parametrize("metric", LIBRARIES)
def test_missing_library_is_a_reason(metric: str, clean: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miipher2.evaluation.metrics.registry.find_spec", lambda name: None)
    results, skipped = measure(metric, SignalPair(Signal(clean, RATE_HZ, "en"), Signal(clean, RATE_HZ, "en")))
    assert results == {}
    reason = f"{METRICS[metric].libraries[0]} is not installed; uv sync --extra metrics"
    assert skipped == dict.fromkeys(METRICS[metric].values, reason)


@pytest.mark.parametrize(
    ("metric", "seconds", "language", "reason"),
    [
        ("estoi", 0.1, "en", "0.10 s; should be at least 0.4 s"),
        ("pesq", 0.2, "en", "0.20 s; should be at least 0.25 s"),
        ("dnsmos", 0.2, "en", "0.20 s; should be at least 0.5 s"),
        ("speaker", 0.2, "en", "0.20 s; should be at least 0.5 s"),
        ("characters", 1.0, "it", "pocketsphinx recognises English only; the language is 'it', which needs a model"),
        ("characters", 1.0, "", "pocketsphinx recognises English only; the language is 'unknown', which needs a model"),
    ],
)
def test_unsuitable_recording_is_skipped_with_its_reason(
    metric: str, seconds: float, language: str, reason: str, clean: np.ndarray
) -> None:
    wave = clean[RATE_HZ : RATE_HZ + round(seconds * RATE_HZ)]
    results, skipped = measure(metric, SignalPair(Signal(wave, RATE_HZ, language), Signal(wave, RATE_HZ, language)))
    assert results == {}
    assert set(skipped.values()) == {reason}


def test_estoi_is_skipped_for_a_clip_of_hardly_any_speech(clean: np.ndarray) -> None:
    wave = np.zeros(RATE_HZ, np.float32)
    wave[:2000] = clean[RATE_HZ : RATE_HZ + 2000]
    results = measure("estoi", SignalPair(Signal(wave, RATE_HZ), Signal(wave, RATE_HZ)))
    assert results == ({}, {"estoi": "fewer than 30 frames of speech"})


def test_silence_and_a_missing_reference_are_reasons(clean: np.ndarray) -> None:
    silent = SignalPair(Signal(clean, RATE_HZ), Signal(np.zeros_like(clean), RATE_HZ))
    for metric in LIBRARIES:
        assert set(measure(metric, silent)[1].values()) == {"silent"}
    alone = SignalPair(None, Signal(clean, RATE_HZ))
    assert measure("pesq", alone) == ({}, {"pesq": "there is no clean recording"})
    results, skipped = measure("dnsmos", alone)
    assert skipped == {}
    assert 1.0 <= results["dnsmos_ovrl"] <= 5.0
