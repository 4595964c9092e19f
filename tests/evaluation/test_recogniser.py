"""What the recogniser hears does not depend on what is heard beside it, and its failures are said."""

import numpy as np
import pytest

from miipher2.audio.io import read_audio
from miipher2.config.paths import ROOT
from miipher2.evaluation.evaluate import Item, evaluate
from miipher2.evaluation.metrics import asr as recogniser
from miipher2.evaluation.metrics.registry import METRICS, Metric, Value, begin
from miipher2.evaluation.metrics.signals import Sounds, Voice

CLIP = ROOT / "data/embedded/en/agent_incorrect.flac"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Two seconds of an English sentence, at 16 kHz."""
    return read_audio(CLIP)[0][:32_000]


def test_words_are_heard_alike_alone_and_beside_others(speech: np.ndarray) -> None:
    samples = (speech * 32767).astype("<i2").tobytes()
    alone = recogniser.start(samples).result()
    beside = [recogniser.start(samples), recogniser.start(bytes(16_000)), recogniser.start(samples)]
    assert alone
    assert [heard.result() for heard in beside][::2] == [alone, alone]


def test_a_recogniser_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recogniser, "__file__", "/nowhere/recogniser.py")
    with pytest.raises(RuntimeError, match=r"the recogniser ended with 2: .*/nowhere/recogniser\.py"):
        recogniser.start(b"").result()


def test_only_what_can_be_measured_is_begun(speech: np.ndarray) -> None:
    english, italian, short = (
        Voice(speech, 16_000, "en"),
        Voice(speech, 16_000, "it"),
        Voice(speech[:100], 16_000, "en"),
    )
    for voice in (english, italian, short, Voice(speech * 0, 16_000, "en")):
        for metric in ("characters", "log_mel"):
            begin(metric, voice)
    assert "words" in english.kept
    assert not italian.kept
    assert not short.kept


def test_a_recording_like_the_clean_one_has_no_character_error(speech: np.ndarray) -> None:
    item = Item("a.flac", speech, speech * 0.5, labels={"language": ("en",)})
    row = evaluate([item], {"same": lambda _name: speech}, 16_000, ["characters"]).utterances[0]
    assert row.values["character_error/same"] == 0
    assert 0 <= row.values["character_error/degraded"] <= 1


def test_all_recordings_of_an_utterance_are_begun_before_one_is_measured(
    speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def take(_sounds: Sounds) -> dict[str, float]:
        told.append("measured")
        return {"slow": 1.0}

    slow = Metric(take, {"slow": Value("Slow", "lower")}, begin=lambda _voice: told.append("begun"))
    monkeypatch.setitem(METRICS, "slow", slow)
    item = Item("a.flac", speech, speech * 0.5)
    evaluate([item], {"same": lambda _name: speech}, 16_000, ["slow"])
    assert told == ["begun"] * 3 + ["measured"] * 2  # the clean one is listened to, and is nobody's result
