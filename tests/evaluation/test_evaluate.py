"""Evaluation utterance by utterance: metrics, means, repeatability, and utterances that cannot be measured."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from miipher2.evaluation.evaluate import Utterance, evaluate
from miipher2.evaluation.metrics.feature_error import Features, feature_errors
from miipher2.evaluation.metrics.spectral import log_mel_distance, log_spectral_distance
from miipher2.rng import stream
from miipher2.training.losses import MelDistance

RATE_HZ = 16_000


def speech_like(name: str, seconds: float = 0.5) -> np.ndarray:
    rng = stream(0, name)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(100, 4000, size=5))
    return (0.05 * tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def add_noise(clean: np.ndarray, amount: float, name: str = "noise") -> np.ndarray:
    return clean + (amount * stream(1, name).standard_normal(len(clean))).astype(np.float32)


def features(degraded_error: float = 0.4, cleaned_error: float = 0.1) -> Features:
    clean = stream(2, "features").standard_normal((25, 8)).astype(np.float32)
    return Features(clean, clean + np.float32(degraded_error), clean - np.float32(cleaned_error))


def make_utterances(count: int = 3) -> list[Utterance]:
    waves = {f"u{i}": speech_like(f"u{i}") for i in range(count)}
    return [Utterance(name, clean, add_noise(clean, 0.1, name), features()) for name, clean in waves.items()]


def make_systems(utterances: list[Utterance]) -> dict[str, Any]:
    clean: dict[str, Any] = {utterance.name: utterance.clean for utterance in utterances}
    return {
        "pre_trained": lambda name: add_noise(clean[name], 0.03, name),
        "fine_tuned": lambda name: add_noise(clean[name], 0.01, name),
    }


def test_wave_has_no_distance_to_itself():
    clean = speech_like("a")
    assert log_mel_distance(clean, clean, RATE_HZ) == 0.0
    assert log_spectral_distance(clean, clean, RATE_HZ) == 0.0


def test_distance_of_a_gain_is_its_logarithm():
    clean = add_noise(speech_like("a"), 0.1)  # loud enough for the floor not to matter
    assert log_mel_distance(clean, 0.5 * clean, RATE_HZ) == pytest.approx(math.log(2), rel=1e-4)
    assert log_spectral_distance(clean, 0.5 * clean, RATE_HZ) == pytest.approx(20 * math.log10(2), rel=1e-3)


def test_differences_below_the_floor_of_16_bit_files_do_not_count():
    hiss = (1e-7 * stream(0, "hiss").standard_normal(RATE_HZ)).astype(np.float32)
    assert log_spectral_distance(hiss, 0.1 * hiss, RATE_HZ) == 0.0


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 48_000])
def test_no_mel_band_is_empty_at_any_rate(rate_hz):
    noise = (0.1 * stream(0, "white").standard_normal(rate_hz)).astype(np.float32)
    # A band without a bin would stay at the floor in both, and lower the mean below the gain's logarithm.
    assert log_mel_distance(noise, 2 * noise, rate_hz) == pytest.approx(math.log(2), rel=1e-4)


def test_mel_distance_is_the_one_that_the_vocoder_is_trained_with():
    clean = add_noise(speech_like("a", 2.0), 0.1)
    other = add_noise(clean, 0.2)
    loss = MelDistance(RATE_HZ)(torch.from_numpy(other)[None], torch.from_numpy(clean)[None]).item()
    # They differ in how they extend a wave at its ends.
    assert log_mel_distance(clean, other, RATE_HZ) == pytest.approx(loss, rel=0.02)


@pytest.mark.parametrize("samples", [1, 2, 200, 513])
def test_waves_shorter_than_a_window_are_measured(samples):
    clean = speech_like("a")[:samples] + np.float32(0.1)
    assert math.isfinite(log_mel_distance(clean, -0.5 * clean, RATE_HZ))
    assert math.isfinite(log_spectral_distance(clean, np.zeros_like(clean), RATE_HZ))


def test_feature_errors_are_mean_squared_and_absolute_errors_and_their_ratios():
    errors = feature_errors(features(degraded_error=0.4, cleaned_error=0.1))
    expected = {"degraded": 0.16, "l1_degraded": 0.4, "cleaned": 0.01, "l1_cleaned": 0.1}
    assert errors == pytest.approx(expected | {"ratio": 1 / 16, "l1_ratio": 1 / 4}, rel=1e-5)


def test_means_are_over_the_counted_utterances_and_ratios_are_of_means():
    utterances = make_utterances()
    evaluation = evaluate(utterances, make_systems(utterances), RATE_HZ)
    metrics = evaluation.means()
    expected = [log_mel_distance(np.asarray(each.clean), each.degraded, RATE_HZ) for each in utterances]
    mel = metrics["log_mel"]
    assert mel["degraded"] == pytest.approx(np.mean(expected))
    assert mel["fine_tuned"] < mel["pre_trained"] < mel["degraded"]
    assert mel["improvement"] == pytest.approx(1 - mel["fine_tuned"] / mel["degraded"])
    assert metrics["features"]["ratio"] == pytest.approx(1 / 16, rel=1e-5)
    assert metrics["features"]["l1_ratio"] == pytest.approx(1 / 4, rel=1e-5)
    assert metrics["utterances"] == {"evaluated": 3, "failed": 0}
    assert set(metrics) == {"utterances", "log_mel", "log_spectral_distance", "features"}


def test_feature_error_ratio_weights_utterances_by_their_error():
    clean = speech_like("a")
    utterances = [
        Utterance("easy", clean, add_noise(clean, 0.1), features(0.1, 0.1)),
        Utterance("hard", clean, add_noise(clean, 0.1), features(0.9, 0.1)),
    ]
    assert evaluate(utterances, {}, RATE_HZ).means()["features"]["l1_ratio"] == pytest.approx(0.2 / 1.0, rel=1e-5)


def test_means_are_plain_numbers_for_json():
    utterances = make_utterances()
    metrics = evaluate(utterances, make_systems(utterances), RATE_HZ).means()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert {type(value) for group in metrics.values() for value in group.values()} <= {int, float}


def test_two_evaluations_give_the_same_numbers():
    utterances = make_utterances()
    first, second = (evaluate(iter(utterances), make_systems(utterances), RATE_HZ) for _ in range(2))
    assert first == second
    assert json.dumps(first.means()) == json.dumps(second.means())


def make_broken(case: str, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a pair (clean, degraded) with one defect."""
    degraded = add_noise(clean, 0.1)
    if case == "nan":
        degraded[7] = np.nan
    return {
        "lengths": (clean, degraded[:-1]),
        "nan": (clean, degraded),
        "silent clean": (np.zeros_like(clean), degraded),
        "silent degraded": (clean, np.zeros_like(clean)),
        "empty": (clean[:0], degraded[:0]),
    }[case]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("lengths", "degraded: 7999 values; clean has 8000"),
        ("nan", "degraded: nan at value 7; should be finite"),
        ("silent clean", "clean: silent, no reference"),
        ("silent degraded", "degraded: silent"),
        ("empty", r"clean: a wave of shape (0,); should be one channel that holds audio"),
    ],
)
def test_utterance_that_cannot_be_measured_is_a_row_with_the_reason(case, reason):
    utterances = make_utterances(2)
    clean, degraded = make_broken(case, np.asarray(utterances[0].clean))
    evaluation = evaluate(
        [Utterance("broken", clean, degraded), *utterances], make_systems_with_broken(utterances), RATE_HZ
    )
    (failure,) = evaluation.failures()
    assert (failure.name, failure.reason, failure.is_counted) == ("broken", reason, False)
    assert evaluation.means()["utterances"] == {"evaluated": 2, "failed": 1}
    assert (
        evaluation.means()["log_mel"]
        == evaluate(utterances, make_systems_with_broken(utterances), RATE_HZ).means()["log_mel"]
    )
    assert evaluation.csv_rows()[0]["reason"] == reason


def make_systems_with_broken(utterances: list[Utterance]) -> dict:
    """Return systems that restore the utterance named `broken` as they do `u0`."""
    systems = make_systems(utterances)
    return {name: lambda utterance, run=run: run(utterance.replace("broken", "u0")) for name, run in systems.items()}


def test_failure_of_one_system_excludes_the_utterance_from_every_mean():
    utterances = make_utterances()

    def fails_once(name: str) -> np.ndarray:
        if name == "u1":
            raise ValueError("unsupported")
        return make_systems(utterances)["fine_tuned"](name)

    evaluation = evaluate(
        utterances, {"pre_trained": make_systems(utterances)["pre_trained"], "fine_tuned": fails_once}, RATE_HZ
    )
    rows = evaluation.csv_rows()
    assert rows[1]["reason"] == "fine_tuned: unsupported"
    assert rows[1]["counted"] == "no"
    assert rows[1]["log_mel/fine_tuned"] == ""
    assert float(rows[1]["log_mel/pre_trained"]) > 0.0
    others = [utterances[0], utterances[2]]
    assert evaluation.means()["log_mel"] == evaluate(others, make_systems(utterances), RATE_HZ).means()["log_mel"]


def test_silent_output_is_listed_and_counts():
    utterances = make_utterances(2)
    evaluation = evaluate(utterances, {"fine_tuned": lambda name: np.zeros_like(utterances[0].clean)}, RATE_HZ)
    assert [row.reason for row in evaluation.failures()] == ["fine_tuned: silent"] * 2
    metrics = evaluation.means()
    assert metrics["utterances"] == {"evaluated": 2, "failed": 0}
    assert metrics["log_mel"]["improvement"] < 0.0


def test_features_of_different_shapes_are_a_reason():
    utterances = make_utterances(2)
    good = features()
    bad = Utterance(
        "u9", utterances[0].clean, utterances[0].degraded, Features(good.clean, good.degraded[:-1], good.cleaned)
    )
    evaluation = evaluate([*utterances, bad], {}, RATE_HZ)
    assert evaluation.failures()[0].reason == "degraded features have the shape (24, 8); clean has (25, 8)"


def test_speech_without_degradation_has_no_ratio():
    clean = speech_like("a")
    metrics = evaluate([Utterance("a", clean, clean, features(0.0, 0.1))], {"s": lambda _: clean}, RATE_HZ).means()
    assert "ratio" not in metrics["features"]
    assert "improvement" not in metrics["log_mel"]


def test_evaluating_nothing_is_an_error():
    with pytest.raises(ValueError, match="there are no utterances to evaluate"):
        evaluate([], {}, RATE_HZ)
    silent = Utterance("quiet", np.zeros(800, np.float32), np.zeros(800, np.float32))
    with pytest.raises(ValueError, match="none of 1 utterances could be evaluated: quiet: clean: silent"):
        evaluate([silent], {}, RATE_HZ).means()


def test_names_must_be_unique():
    utterances = make_utterances(1)
    with pytest.raises(ValueError, match="two utterances are named 'u0'"):
        evaluate([*utterances, *utterances], {}, RATE_HZ)
    with pytest.raises(ValueError, match="a system is named 'degraded'"):
        evaluate(utterances, {"degraded": lambda name: np.zeros(100, np.float32)}, RATE_HZ)


def test_all_csv_rows_have_the_same_columns():
    utterances = make_utterances()
    bad = Utterance("broken", utterances[0].clean, utterances[0].degraded[:-1])
    rows = evaluate([bad, *utterances], make_systems_with_broken(utterances), RATE_HZ).csv_rows()
    assert len({tuple(row) for row in rows}) == 1
    assert list(rows[0])[:2] == ["name", "seconds"]
    assert list(rows[0])[-2:] == ["counted", "reason"]


def test_spread_runs_from_the_worst_to_the_best():
    clean = speech_like("a")
    utterances = [Utterance(f"u{i}", clean, add_noise(clean, 0.02 * (i + 1))) for i in range(7)]
    evaluation = evaluate(utterances, {"fine_tuned": lambda name: utterances[int(name[1:])].degraded}, RATE_HZ)
    assert [row.name for row in evaluation.worst_first()] == [f"u{i}" for i in reversed(range(7))]
    assert evaluation.spread(3) == ("u6", "u3", "u0")
    assert evaluation.spread(1) == ("u6",)
    assert len(evaluation.spread(20)) == 7
