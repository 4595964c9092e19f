"""Metrics that libraries measure: best on clean speech, the right way for what harms it, equal from run to run."""

import numpy as np
import pytest
from scipy.signal import butter, fftconvolve, sosfiltfilt

from miipher2.audio.io import read_audio
from miipher2.config.paths import ROOT
from miipher2.evaluation.metrics.registry import METRICS, VALUES, measure
from miipher2.evaluation.metrics.signals import Sounds, Voice
from miipher2.rng import stream

RATE_HZ = 16_000
BEST = {"si_sdr": (80.0, np.inf), "estoi": (0.999, 1.001), "pesq": (4.6, 4.65), "speaker_cosine": (0.9999, 1.0001)}
LIBRARIES = ("si_sdr", "estoi", "pesq", "pitch", "dnsmos", "distillmos", "speaker", "characters")


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    wave, rate_hz = read_audio(ROOT / "data/embedded/en/agent_incorrect.flac")
    assert rate_hz == RATE_HZ
    return wave[: 6 * RATE_HZ]


def harmed(clean: np.ndarray, how: str) -> np.ndarray:
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
    sounds = Sounds(Voice(clean, RATE_HZ, language), Voice(other, RATE_HZ, language))
    found: dict[str, float] = {}
    for name in metrics:
        measured, skipped = measure(name, sounds)
        assert skipped in ({}, {"above_8_khz": "16000 Hz holds nothing so high"})
        found |= measured
    return found


@pytest.mark.slow
def test_clean_speech_against_itself_has_the_best_values(clean: np.ndarray) -> None:
    found = values(clean, clean, *(name for name in METRICS if not METRICS[name].values.keys() & {"dnsmos_ovrl"}))
    for name, (low, high) in BEST.items():
        assert low <= found.pop(name) <= high, name
    assert 3.0 < found.pop("distillmos") <= 5.0
    assert found == dict.fromkeys(found, 0.0)
    assert {"log_mel", "above_4_khz", "pitch_error", "voicing_error", "character_error"} <= found.keys()


@pytest.mark.slow
def test_every_metric_moves_the_right_way(clean: np.ndarray) -> None:
    """DNSMOS and ESTOI do not see lost bandwidth, high bands and LSD do."""
    names = [name for name in METRICS if name != "characters"]
    best = values(clean, clean, *names)
    found = {how: values(clean, harmed(clean, how), *names) for how in ("noise", "reverb", "clipping", "low-pass")}
    for how in ("noise", "reverb", "clipping"):
        for name in ("dnsmos_p808", "distillmos", "estoi", "pesq", "si_sdr", "speaker_cosine", "log_mel"):
            assert VALUES[name].worse_by(found[how][name] - best[name]) > 0, (how, name)
    # Of clipping at the clip's RMS the overall score saw nothing: 3.249 against 3.245 on this clip.
    for how in ("noise", "reverb"):
        assert found[how]["dnsmos_ovrl"] < best["dnsmos_ovrl"] - 0.5
    assert found["noise"]["above_4_khz"] > 3.0
    assert found["noise"]["voicing_error"] > 0.0
    low = found["low-pass"]
    assert low["above_4_khz"] < -10.0
    assert low["log_spectral_distance"] > 10.0
    assert low["estoi"] > 0.95
    assert abs(low["dnsmos_ovrl"] - best["dnsmos_ovrl"]) < 0.5
    assert low["pesq"] < best["pesq"]


@pytest.mark.slow
def test_two_measurements_are_equal_whatever_was_heard_between(clean: np.ndarray) -> None:
    clean = clean[: 3 * RATE_HZ]
    noisy = harmed(clean, "noise")
    first = values(clean, noisy, *METRICS)
    values(clean, harmed(clean, "clipping"), *METRICS)
    assert values(clean, noisy, *METRICS) == first


def test_a_delay_is_taken_out_where_a_metric_needs_aligned_pairs(clean: np.ndarray) -> None:
    late = np.pad(clean, (400, 0))[: len(clean)]
    sounds = Sounds(Voice(clean, RATE_HZ), Voice(late, RATE_HZ))
    assert sounds.delay == 400
    assert measure("si_sdr", sounds)[0]["si_sdr"] > 80.0
    assert measure("estoi", sounds)[0]["estoi"] > 0.99
    assert Sounds(Voice(late, RATE_HZ), Voice(clean, RATE_HZ)).delay == -400
    stranger = stream(0, "stranger").standard_normal(len(clean)).astype(np.float32)
    assert Sounds(Voice(clean, RATE_HZ), Voice(stranger, RATE_HZ)).delay == 0
    assert Sounds(Voice(clean, RATE_HZ), Voice(late, RATE_HZ), 0.01).delay != 400


@pytest.mark.parametrize("metric", LIBRARIES)
def test_a_missing_library_is_a_named_reason(metric: str, clean: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miipher2.evaluation.metrics.registry.find_spec", lambda name: None)
    found, skipped = measure(metric, Sounds(Voice(clean, RATE_HZ, "en"), Voice(clean, RATE_HZ, "en")))
    assert found == {}
    reason = f"{METRICS[metric].libraries[0]} is not installed; uv sync --extra metrics"
    assert skipped == dict.fromkeys(METRICS[metric].values, reason)


@pytest.mark.parametrize(
    ("metric", "seconds", "language", "reason"),
    [
        ("estoi", 0.1, "en", "0.10 s; it needs 0.4 s"),
        ("pesq", 0.2, "en", "0.20 s; it needs 0.25 s"),
        ("dnsmos", 0.2, "en", "0.20 s; it needs 0.5 s"),
        ("speaker", 0.2, "en", "0.20 s; it needs 0.5 s"),
        ("characters", 1.0, "it", "the recogniser knows English only; this is 'it'"),
        ("characters", 1.0, "", "the recogniser knows English only; this is 'unknown'"),
    ],
)
def test_what_does_not_apply_is_skipped_with_its_reason(
    metric: str, seconds: float, language: str, reason: str, clean: np.ndarray
) -> None:
    wave = clean[RATE_HZ : RATE_HZ + round(seconds * RATE_HZ)]
    found, skipped = measure(metric, Sounds(Voice(wave, RATE_HZ, language), Voice(wave, RATE_HZ, language)))
    assert found == {}
    assert set(skipped.values()) == {reason}


def test_a_clip_of_hardly_any_speech_has_no_intelligibility(clean: np.ndarray) -> None:
    wave = np.zeros(RATE_HZ, np.float32)
    wave[:2000] = clean[RATE_HZ : RATE_HZ + 2000]
    found = measure("estoi", Sounds(Voice(wave, RATE_HZ), Voice(wave, RATE_HZ)))
    assert found == ({}, {"estoi": "fewer than 30 frames of speech"})


def test_silence_and_a_missing_reference_are_reasons(clean: np.ndarray) -> None:
    silent = Sounds(Voice(clean, RATE_HZ), Voice(np.zeros_like(clean), RATE_HZ))
    for metric in LIBRARIES:
        assert set(measure(metric, silent)[1].values()) == {"silent"}
    alone = Sounds(None, Voice(clean, RATE_HZ))
    assert measure("pesq", alone) == ({}, {"pesq": "there is no clean recording"})
    found, skipped = measure("dnsmos", alone)
    assert skipped == {}
    assert 1.0 <= found["dnsmos_ovrl"] <= 5.0
