"""Metrics of restored speech: what they are, that they repeat, and that one bad utterance does not stop the others."""

import json
import math

import numpy as np
import pytest
import torch

from miipher2.evaluation.evaluate import Features, Item, evaluate, feature_errors
from miipher2.evaluation.metrics.spectral import log_mel_distance, log_spectral_distance
from miipher2.rng import stream
from miipher2.training.losses import MelDistance

RATE_HZ = 16_000


def speech_like(name: str, seconds: float = 0.5) -> np.ndarray:
    rng = stream(0, name)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(100, 4000, size=5))
    return (0.05 * tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def noisy(clean: np.ndarray, amount: float, name: str = "noise") -> np.ndarray:
    return clean + (amount * stream(1, name).standard_normal(len(clean))).astype(np.float32)


def features(degraded_error: float = 0.4, cleaned_error: float = 0.1) -> Features:
    clean = stream(2, "features").standard_normal((25, 8)).astype(np.float32)
    return Features(clean, clean + np.float32(degraded_error), clean - np.float32(cleaned_error))


def items(count: int = 3) -> list[Item]:
    waves = {f"u{i}": speech_like(f"u{i}") for i in range(count)}
    return [Item(name, clean, noisy(clean, 0.1, name), features()) for name, clean in waves.items()]


def systems(made: list[Item]) -> dict:
    clean = {item.name: item.clean for item in made}
    return {
        "pre_trained": lambda name: noisy(clean[name], 0.03, name),
        "fine_tuned": lambda name: noisy(clean[name], 0.01, name),
    }


def test_a_wave_has_no_distance_to_itself():
    clean = speech_like("a")
    assert log_mel_distance(clean, clean, RATE_HZ) == 0.0
    assert log_spectral_distance(clean, clean, RATE_HZ) == 0.0


def test_a_gain_is_its_logarithm_away():
    clean = noisy(speech_like("a"), 0.1)  # loud enough that the floor plays no part
    assert log_mel_distance(clean, 0.5 * clean, RATE_HZ) == pytest.approx(math.log(2), rel=1e-4)
    assert log_spectral_distance(clean, 0.5 * clean, RATE_HZ) == pytest.approx(20 * math.log10(2), rel=1e-3)


def test_what_lies_below_the_floor_of_16_bit_files_is_not_heard():
    hiss = (1e-7 * stream(0, "hiss").standard_normal(RATE_HZ)).astype(np.float32)
    assert log_spectral_distance(hiss, 0.1 * hiss, RATE_HZ) == 0.0


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 48_000])
def test_no_mel_band_is_empty_at_any_rate(rate_hz):
    noise = (0.1 * stream(0, "white").standard_normal(rate_hz)).astype(np.float32)
    # A band without a bin would stay at the floor in both, and pull the mean below the gain's logarithm.
    assert log_mel_distance(noise, 2 * noise, rate_hz) == pytest.approx(math.log(2), rel=1e-4)


def test_the_mel_distance_is_the_one_that_the_vocoder_is_trained_with():
    clean = noisy(speech_like("a", 2.0), 0.1)
    other = noisy(clean, 0.2)
    trained = MelDistance(RATE_HZ)(torch.from_numpy(other)[None], torch.from_numpy(clean)[None]).item()
    # They differ in how a wave is continued at its ends.
    assert log_mel_distance(clean, other, RATE_HZ) == pytest.approx(trained, rel=0.02)


@pytest.mark.parametrize("samples", [1, 2, 200, 513])
def test_waves_shorter_than_a_window_are_measured(samples):
    clean = speech_like("a")[:samples] + np.float32(0.1)
    assert math.isfinite(log_mel_distance(clean, -0.5 * clean, RATE_HZ))
    assert math.isfinite(log_spectral_distance(clean, np.zeros_like(clean), RATE_HZ))


def test_feature_errors_are_squared_and_absolute_means_and_their_ratios():
    errors = feature_errors(features(degraded_error=0.4, cleaned_error=0.1))
    expected = {"degraded": 0.16, "l1_degraded": 0.4, "cleaned": 0.01, "l1_cleaned": 0.1}
    assert errors == pytest.approx(expected | {"ratio": 1 / 16, "l1_ratio": 1 / 4}, rel=1e-5)


def test_means_are_of_the_counted_utterances_and_ratios_are_of_the_means():
    made = items()
    evaluation = evaluate(made, systems(made), RATE_HZ)
    metrics = evaluation.metrics()
    by_hand = [log_mel_distance(item.clean, item.degraded, RATE_HZ) for item in made]
    mel = metrics["log_mel"]
    assert mel["degraded"] == pytest.approx(np.mean(by_hand))
    assert mel["fine_tuned"] < mel["pre_trained"] < mel["degraded"]
    assert mel["improvement"] == pytest.approx(1 - mel["fine_tuned"] / mel["degraded"])
    assert metrics["features"]["ratio"] == pytest.approx(1 / 16, rel=1e-5)
    assert metrics["features"]["l1_ratio"] == pytest.approx(1 / 4, rel=1e-5)
    assert metrics["utterances"] == {"evaluated": 3, "failed": 0}
    assert set(metrics) == {"utterances", "log_mel", "log_spectral_distance", "features"}


def test_the_ratio_weighs_utterances_by_their_error():
    clean = speech_like("a")
    made = [
        Item("easy", clean, noisy(clean, 0.1), features(0.1, 0.1)),
        Item("hard", clean, noisy(clean, 0.1), features(0.9, 0.1)),
    ]
    assert evaluate(made, {}, RATE_HZ).metrics()["features"]["l1_ratio"] == pytest.approx(0.2 / 1.0, rel=1e-5)


def test_metrics_are_plain_numbers_that_json_takes():
    made = items()
    metrics = evaluate(made, systems(made), RATE_HZ).metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert {type(value) for group in metrics.values() for value in group.values()} <= {int, float}


def test_two_evaluations_give_the_same_numbers():
    made = items()
    first, second = (evaluate(iter(made), systems(made), RATE_HZ) for _ in range(2))
    assert first == second
    assert json.dumps(first.metrics()) == json.dumps(second.metrics())


def _broken(case: str, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a pair (clean, degraded) with one thing wrong."""
    degraded = noisy(clean, 0.1)
    if case == "nan":
        degraded[7] = np.nan
    return {
        "lengths": (clean, degraded[:-1]),
        "nan": (clean, degraded),
        "silent clean": (np.zeros_like(clean), degraded),
        "silent degraded": (clean, np.zeros_like(clean)),
        "empty": (clean[:0], degraded[:0]),
        "stereo": (clean, np.stack([degraded, degraded])),
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
def test_a_pair_that_cannot_be_measured_is_a_row_with_its_reason(case, reason):
    made = items(2)
    clean, degraded = _broken(case, made[0].clean)
    evaluation = evaluate([Item("broken", clean, degraded), *made], _echo(made), RATE_HZ)
    (failure,) = evaluation.failures()
    assert (failure.name, failure.reason, failure.is_counted) == ("broken", reason, False)
    assert evaluation.metrics()["utterances"] == {"evaluated": 2, "failed": 1}
    assert evaluation.metrics()["log_mel"] == evaluate(made, _echo(made), RATE_HZ).metrics()["log_mel"]
    assert evaluation.rows()[0]["reason"] == reason


def _echo(made: list[Item]) -> dict:
    """Return systems that also answer for the utterance named `broken`."""
    known = systems(made)
    return {name: lambda utterance, ask=ask: ask(utterance.replace("broken", "u0")) for name, ask in known.items()}


def test_a_system_that_fails_keeps_the_utterance_out_of_every_mean():
    made = items()

    def fails_once(name: str) -> np.ndarray:
        if name == "u1":
            raise ValueError("too strange a sound")
        return systems(made)["fine_tuned"](name)

    evaluation = evaluate(made, {"pre_trained": systems(made)["pre_trained"], "fine_tuned": fails_once}, RATE_HZ)
    rows = evaluation.rows()
    assert rows[1]["reason"] == "fine_tuned: too strange a sound"
    assert rows[1]["counted"] == "no"
    assert rows[1]["log_mel/fine_tuned"] == ""
    assert rows[1]["log_mel/pre_trained"] > 0.0
    others = [made[0], made[2]]
    assert evaluation.metrics()["log_mel"] == evaluate(others, systems(made), RATE_HZ).metrics()["log_mel"]


def test_a_system_that_answers_with_silence_is_listed_and_counts():
    made = items(2)
    evaluation = evaluate(made, {"fine_tuned": lambda name: np.zeros_like(made[0].clean)}, RATE_HZ)
    assert [row.reason for row in evaluation.failures()] == ["fine_tuned: silent"] * 2
    metrics = evaluation.metrics()
    assert metrics["utterances"] == {"evaluated": 2, "failed": 0}
    assert metrics["log_mel"]["improvement"] < 0.0


def test_features_of_unequal_shape_are_a_reason():
    made = items(2)
    good = features()
    bad = Item("u9", made[0].clean, made[0].degraded, Features(good.clean, good.degraded[:-1], good.cleaned))
    evaluation = evaluate([*made, bad], {}, RATE_HZ)
    assert evaluation.failures()[0].reason == "degraded features have the shape (24, 8); clean has (25, 8)"


def test_speech_that_was_not_degraded_has_no_ratio():
    clean = speech_like("a")
    metrics = evaluate([Item("a", clean, clean, features(0.0, 0.1))], {"s": lambda _: clean}, RATE_HZ).metrics()
    assert "ratio" not in metrics["features"]
    assert "improvement" not in metrics["log_mel"]


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no utterances to evaluate"):
        evaluate([], {}, RATE_HZ)
    silent = Item("quiet", np.zeros(800, np.float32), np.zeros(800, np.float32))
    with pytest.raises(ValueError, match="none of 1 utterances could be evaluated: quiet: clean: silent"):
        evaluate([silent], {}, RATE_HZ).metrics()


def test_names_are_unique():
    made = items(1)
    with pytest.raises(ValueError, match="two utterances are named 'u0'"):
        evaluate([*made, *made], {}, RATE_HZ)
    with pytest.raises(ValueError, match="a system is named 'degraded'"):
        evaluate(made, {"degraded": lambda name: made[0].clean}, RATE_HZ)


def test_every_row_has_every_column():
    made = items()
    bad = Item("broken", made[0].clean, made[0].degraded[:-1])
    rows = evaluate([bad, *made], _echo(made), RATE_HZ).rows()
    assert len({tuple(row) for row in rows}) == 1
    assert list(rows[0])[:2] == ["name", "seconds"]
    assert list(rows[0])[-2:] == ["counted", "reason"]


def test_the_spread_runs_from_the_worst_to_the_best():
    clean = speech_like("a")
    made = [Item(f"u{i}", clean, noisy(clean, 0.02 * (i + 1))) for i in range(7)]
    evaluation = evaluate(made, {"fine_tuned": lambda name: made[int(name[1:])].degraded}, RATE_HZ)
    assert [row.name for row in evaluation.worst_first()] == [f"u{i}" for i in reversed(range(7))]
    assert evaluation.spread(3) == ("u6", "u3", "u0")
    assert evaluation.spread(1) == ("u6",)
    assert len(evaluation.spread(20)) == 7
