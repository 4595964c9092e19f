"""The summary: paired and seeded intervals, results by label, the gate; and the spectral subtraction baseline."""

import csv
import json

import numpy as np
import pytest

from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.metrics.baseline import spectral_subtraction
from miipher2.evaluation.summary import Bootstrap, summarise, write_results
from miipher2.rng import stream

METHOD = Bootstrap(resamples=500, confidence=0.95, seed=0)


def make_evaluation(loss: float, spread: float = 0.02, count: int = 20) -> Evaluation:
    """Return utterances whose speaker cosine falls by `loss` on average from degraded to restored."""
    rng = stream(0, "table")
    before = rng.uniform(0.5, 0.9, count)
    losses = spread * rng.standard_normal(count)
    losses += loss - losses.mean()
    rows = [
        Row(
            f"u{i}",
            1.0,
            {
                "log_mel/degraded": 1.0,
                "log_mel/restored": 0.5,
                "speaker_cosine/degraded": float(old),
                "speaker_cosine/restored": float(old - lost),
            },
            labels={"language": ("en" if i % 2 else "it",), "degradation": ("room", "noise") if i % 4 else ("noise",)},
        )
        for i, (old, lost) in enumerate(zip(before, losses, strict=True))
    ]
    return Evaluation(tuple(rows), ("restored",), 16_000)


@pytest.mark.parametrize(
    ("loss", "spread", "state"),
    [(0.10, 0.01, "lost"), (-0.10, 0.01, "kept"), (0.03, 0.01, "kept"), (0.04, 0.10, "unsure"), (0.06, 0.10, "lost")],
)
def test_gate_compares_the_mean_loss_and_its_interval_with_the_limit(loss: float, spread: float, state: str) -> None:
    (verdict,) = summarise(make_evaluation(loss, spread), METHOD, {"speaker_cosine": 0.05}).verdicts
    assert verdict.state == state
    assert verdict.loss is not None
    assert verdict.loss.mean == pytest.approx(loss)
    assert verdict.loss.low <= verdict.loss.mean <= verdict.loss.high


def test_missing_metric_is_not_measured_and_a_wrong_limit_is_an_error() -> None:
    evaluation = make_evaluation(0.0)
    (verdict,) = summarise(evaluation, METHOD, {"estoi": 0.05}).verdicts
    assert (verdict.state, verdict.loss) == ("not measured", None)
    for limits in ({"estoy": 0.05}, {"estoi": -1.0}):
        with pytest.raises(ValueError, match=f"gate.{next(iter(limits))}="):
            summarise(evaluation, METHOD, limits)


def test_gate_counts_words_then_speaker_then_quality_and_says_what_is_better() -> None:
    values = {"dnsmos_ovrl": (2.0, 1.0), "speaker_cosine": (0.7, 0.9), "character_error": (0.1, 0.5)}
    both = {
        f"{metric}/{name}": pair[k]
        for metric, pair in values.items()
        for k, name in enumerate(("degraded", "restored"))
    }
    evaluation = Evaluation(
        (Row("u", 1.0, both | {f"{name}/first": pair[0] for name, pair in values.items()}),),
        ("first", "restored"),
        16_000,
    )
    limits = {"dnsmos_ovrl": 0.1, "estoi": 0.05, "speaker_cosine": 0.05, "character_error": 0.05}
    summary = summarise(evaluation, METHOD, limits)
    assert [(each.system, each.metric, each.state) for each in summary.verdicts] == [
        ("first", "character_error", "kept"),
        ("first", "speaker_cosine", "kept"),
        ("first", "dnsmos_ovrl", "kept"),
        ("restored", "character_error", "lost"),
        ("restored", "estoi", "not measured"),
        ("restored", "speaker_cosine", "kept"),
        ("restored", "dnsmos_ovrl", "lost"),
    ]
    assert summary.gate_states("restored") == {"lost": ("words", "quality"), "kept": ("speaker",)}
    lines = summary.text().splitlines()
    assert lines[-1] == "gate: restored against degraded: words, quality lost; speaker kept"
    assert "gate: restored: character_error lost (loss +0.4, at most 0.05)" in lines
    assert [line.split()[:3] + line.split()[-1:] for line in lines if " restored  " in line] == [
        ["character_error", "lower", "restored", "worse"],
        ["speaker_cosine", "higher", "restored", "better"],
        ["dnsmos_ovrl", "higher", "restored", "worse"],
    ]


def test_differences_are_paired() -> None:
    """Utterances differ far more than systems: only paired differences distinguish the systems."""
    summary = summarise(make_evaluation(0.03, 0.01), METHOD)
    lines = {(line.metric, line.system): line for line in summary.overall()}
    line = lines["speaker_cosine", "restored"]
    assert line.difference is not None
    assert line.difference.high < 0.0
    before = lines["speaker_cosine", "degraded"].value
    assert before.low < line.value.mean < before.high
    assert line.difference.mean == pytest.approx(-0.03)


def test_interval_covers_the_mean_as_often_as_its_confidence() -> None:
    covered = 0
    for trial in range(200):
        values = stream(trial, "coverage").standard_normal(20)
        interval = Bootstrap(300, 0.95, trial).interval(list(values))
        covered += interval.low <= 0.0 <= interval.high
    # Percentile intervals of 20 values are a little narrow: 93 % is usual.
    assert 0.87 <= covered / 200 <= 0.99


def test_summary_repeats_and_depends_on_the_seed() -> None:
    evaluation = make_evaluation(0.03)
    assert summarise(evaluation, METHOD) == summarise(evaluation, METHOD)
    assert summarise(evaluation, METHOD) != summarise(evaluation, Bootstrap(500, 0.95, 1))


def test_interval_of_one_value_or_equal_values_has_no_width() -> None:
    for values in ([0.25], [0.25] * 5):
        interval = METHOD.interval(values)
        assert interval.mean == interval.low == interval.high == 0.25


def test_utterance_counts_for_each_of_its_labels() -> None:
    lines = summarise(make_evaluation(0.0), METHOD).lines
    counts = {(line.label_name, line.label): line.count for line in lines if line.system == "degraded"}
    assert counts["all", "all"] == 20
    assert counts["language", "en"] == counts["language", "it"] == 10
    assert counts["degradation", "noise"] == 20
    assert counts["degradation", "room"] == 15


def test_metric_that_one_system_lacks_is_left_out_for_all_and_reported_as_skipped(tmp_path) -> None:
    complete = make_evaluation(0.0)
    first = complete.rows[0]
    values = {name: value for name, value in first.values.items() if name != "speaker_cosine/restored"}
    lacking = Row(first.name, 1.0, values, skipped={"speaker_cosine/restored": "silent"}, labels=first.labels)
    evaluation = Evaluation((lacking, *complete.rows[1:]), ("restored",), 16_000, {"pesq": "pesq is not installed"})
    summary = summarise(evaluation, METHOD, {"speaker_cosine": 0.05})
    by_system = {line.system: line.count for line in summary.overall() if line.metric == "speaker_cosine"}
    assert by_system == {"degraded": 19, "restored": 19}
    write_results(tmp_path, summary)
    details = json.loads((tmp_path / "evaluate_details.json").read_text())
    assert details["skipped"] == {"pesq": {"pesq is not installed": 0}, "speaker_cosine": {"silent": 1}}
    metrics = json.loads((tmp_path / "evaluate.json").read_text())
    assert metrics["skipped"] == {"pesq": 40, "speaker_cosine": 1}
    assert metrics["gate_lost"] == {"restored": 0}
    rows = list(csv.DictReader((tmp_path / "evaluate.csv").open()))
    assert rows[0]["skipped"] == "pesq: pesq is not installed; speaker_cosine/restored: silent"
    assert len(list(csv.DictReader((tmp_path / "evaluate_table.csv").open()))) == len(summary.lines)
    assert "skipped: pesq: pesq is not installed" in summary.text()


@pytest.mark.parametrize("samples", [1, 100, 255, 16_000, 16_001])
def test_baseline_keeps_length_and_timing_and_reduces_noise(samples: int) -> None:
    rng = stream(0, "baseline")
    noise = (0.1 * rng.standard_normal(samples)).astype(np.float32)
    cleaned = spectral_subtraction(noise)
    assert cleaned.shape == noise.shape
    assert np.isfinite(cleaned).all()
    if samples >= 16_000:
        assert np.square(cleaned[8000:]).mean() < 0.5 * np.square(noise[8000:]).mean()
        click = np.zeros(samples, np.float32)
        click[5000] = 1.0
        assert int(np.abs(spectral_subtraction(click)).argmax()) == 5000
