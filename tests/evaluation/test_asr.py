"""Speech recognition does not depend on what runs beside it, and reports its failures."""

import numpy as np
import pytest

from miipher2.audio.io import read_audio
from miipher2.config.paths import ROOT
from miipher2.evaluation.evaluate import Utterance, evaluate
from miipher2.evaluation.metrics import asr
from miipher2.evaluation.metrics.registry import METRICS, Metric, Value, start
from miipher2.evaluation.metrics.signals import Signal, SignalPair

CLIP = ROOT / "data/embedded/en/agent_incorrect.flac"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Return two seconds of an English sentence, at 16 kHz."""
    return read_audio(CLIP)[0][:32_000]


def test_words_are_the_same_alone_and_beside_others(speech: np.ndarray) -> None:
    samples = (speech * 32767).astype("<i2").tobytes()
    alone = asr.transcribe(samples).result()
    beside = [asr.transcribe(samples), asr.transcribe(bytes(16_000)), asr.transcribe(samples)]
    assert alone
    assert [future.result() for future in beside][::2] == [alone, alone]


def test_failed_recognition_reports_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr, "__file__", "/nowhere/asr.py")
    with pytest.raises(RuntimeError, match=r"speech recognition ended with 2: .*/nowhere/asr\.py"):
        asr.transcribe(b"").result()


def test_only_suitable_recordings_are_started(speech: np.ndarray) -> None:
    english, italian, short = (
        Signal(speech, 16_000, "en"),
        Signal(speech, 16_000, "it"),
        Signal(speech[:100], 16_000, "en"),
    )
    for signal in (english, italian, short, Signal(speech * 0, 16_000, "en")):
        for metric in ("characters", "log_mel"):
            start(metric, signal)
    assert "words" in english.cache
    assert not italian.cache
    assert not short.cache


def test_identical_recording_has_no_character_error(speech: np.ndarray) -> None:
    utterance = Utterance("a.flac", speech, speech * 0.5, labels={"language": ("en",)})
    row = evaluate([utterance], {"same": lambda _name: speech}, 16_000, ["characters"]).rows[0]
    assert row.values["character_error/same"] == 0
    assert 0 <= row.values["character_error/degraded"] <= 1


def test_all_recordings_of_an_utterance_are_started_before_one_is_measured(
    speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def measure_slowly(_pair: SignalPair) -> dict[str, float]:
        events.append("measured")
        return {"slow": 1.0}

    slow = Metric(measure_slowly, {"slow": Value("Slow", "lower")}, start=lambda _signal: events.append("started"))
    monkeypatch.setitem(METRICS, "slow", slow)
    utterance = Utterance("a.flac", speech, speech * 0.5)
    evaluate([utterance], {"same": lambda _name: speech}, 16_000, ["slow"])
    assert events == ["started"] * 3 + ["measured"] * 2  # the clean recording is a reference, not a result
