"""Words are recognised the same alone and beside others, compared with a transcript or the clean recording's."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from miipher2.audio.io import read_audio
from miipher2.config.paths import ROOT
from miipher2.evaluation.evaluate import Utterance, evaluate
from miipher2.evaluation.metrics import pocketsphinx_process, whisper_base
from miipher2.evaluation.metrics.asr import POCKETSPHINX, Whisper, language_code, load_asr
from miipher2.evaluation.metrics.registry import METRICS, Metric, Value, measure, start
from miipher2.evaluation.metrics.signals import Signal, SignalPair
from miipher2.evaluation.metrics.words import normalise

CLIPS = ROOT / "data/embedded"
SAID = "Login incorrect. Please enter your agent number, followed by the pound key."


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """Return an English sentence at 16 kHz."""
    return read_audio(CLIPS / "en/agent_incorrect.flac")[0]


@pytest.fixture(scope="module")
def speech(sentence: np.ndarray) -> np.ndarray:
    """Return its first two seconds."""
    return sentence[:32_000]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder in which the wheels of Whisper base are joined."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "miipher2/whisper-base"


@pytest.fixture(scope="module")
def whisper(cache: Path) -> Whisper:
    asr = load_asr("whisper-base")
    assert isinstance(asr, Whisper)
    return asr


def noisy(wave: np.ndarray, level: float) -> np.ndarray:
    return wave + level * np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)


def test_words_are_the_same_alone_and_beside_others(speech: np.ndarray) -> None:
    alone = POCKETSPHINX.transcribe(speech, "en").result()
    waves = (speech, np.zeros(8_000, np.float32), speech)
    assert alone
    assert [future.result() for future in [POCKETSPHINX.transcribe(wave, "en") for wave in waves]][::2] == [alone] * 2


@pytest.mark.slow
def test_whisper_recognises_the_same_words_alone_beside_others_and_from_a_folder(
    whisper: Whisper, cache: Path, sentence: np.ndarray
) -> None:
    alone = whisper.transcribe(sentence, "en").result()
    assert normalise(alone) == normalise(SAID)
    others = [whisper.transcribe(wave, "en") for wave in (sentence, noisy(sentence, 0.1), sentence)]
    assert [future.result() for future in others][::2] == [alone, alone]
    small = load_asr(str(cache), "int8")
    assert normalise(small.transcribe(sentence, "en_us").result()) == normalise(SAID)
    assert "int8, a beam of 5, temperature 0" in small.description
    assert f"sha256 {whisper_base.FILES['model.bin'][1][:16]}" in small.description


def test_wheels_are_joined_again_where_a_file_is_missing_or_damaged(whisper: Whisper, cache: Path) -> None:
    model = (cache / "model.bin").read_bytes()
    (cache / "model.bin").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    (cache / "config.json").unlink()
    assert whisper_base.join_wheels() == cache
    assert (cache / "model.bin").read_bytes() == model
    assert sorted(path.name for path in cache.iterdir()) == sorted(whisper_base.FILES)


def test_a_model_that_cannot_be_had_is_one_line(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"asr\.model=nope: no such folder or model; should be whisper-base, a folder"):
        load_asr("nope")
    with pytest.raises(OSError, match=r"asr\.model=no/such: the hub has no such model, or cannot be reached"):
        load_asr("no/such")
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(ValueError, match=r"broken: has no config\.json; should hold a Whisper model in CTranslate2"):
        load_asr("broken", root=tmp_path)
    whisper_base.join_wheels()
    shutil.copytree(cache, broken, dirs_exist_ok=True)
    (broken / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken: should hold a Whisper model in CTranslate2 form \("):
        load_asr(str(broken))
    monkeypatch.setattr(whisper_base, "PACKAGES", ("no_such_wheel",) * 2)
    with pytest.raises(ValueError, match=r"whisper-base: no_such_wheel is not installed; uv sync --extra whisper-base"):
        load_asr("whisper-base")
    monkeypatch.setattr("miipher2.evaluation.metrics.asr.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"asr\.model=base: faster-whisper is not installed; uv sync --extra asr"):
        load_asr("base")


def test_failed_recognition_reports_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocketsphinx_process, "__file__", "/nowhere/asr.py")
    with pytest.raises(RuntimeError, match=r"speech recognition ended with 2: .*/nowhere/asr\.py"):
        pocketsphinx_process.transcribe(b"")


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


def test_identical_recording_has_no_error(speech: np.ndarray) -> None:
    utterance = Utterance("a.flac", speech, speech * 0.5, labels={"language": ("en",)})
    evaluation = evaluate([utterance], {"same": lambda _name: speech}, 16_000, ["characters"])
    row = evaluation.rows[0]
    assert row.values["character_error/same"] == row.values["word_error/same"] == 0
    assert 0 <= row.values["character_error/degraded"] <= 1
    assert evaluation.asr_line().startswith(
        "recognised by pocketsphinx 5.1.1, weak and English only; compared with the "
    )


@pytest.mark.slow
def test_transcripts_measure_the_clean_recording_too(whisper: Whisper, sentence: np.ndarray) -> None:
    clean = read_audio(CLIPS / "fr/vm_saveoper.flac")[0]
    pairs = [
        Utterance("en", sentence, noisy(sentence, 0.003), transcript=SAID.replace("agent", "extension")),
        Utterance("fr", clean, noisy(clean, 0.1), labels={"language": ("unknown",)}),
    ]
    evaluation = evaluate(
        pairs, {"same": lambda name: sentence if name == "en" else clean}, 16_000, ["characters"], asr=whisper
    )
    english, french = evaluation.rows
    characters = len(normalise(english.words["words_transcript"]).replace(" ", ""))
    assert english.values["character_error/clean"] == pytest.approx(7 / characters)  # agent for extension
    assert english.values["word_error/clean"] == english.values["word_error/same"] == pytest.approx(1 / 12)
    assert french.words["words_language"] == "fr"  # detected
    assert "patienter" in french.words["words/clean"]
    assert "character_error/clean" not in french.values
    assert french.values["character_error/same"] == 0 < french.values["character_error/degraded"]
    assert evaluation.asr_line().endswith(
        "compared with the transcripts of 1 and the words that it recognises in the clean recordings of 1 utterances"
    )
    columns = evaluation.csv_rows()[0]
    assert columns["words/same"] == english.words["words/same"] != ""


@pytest.mark.slow
def test_without_a_clean_recording_a_transcript_is_enough(whisper: Whisper, sentence: np.ndarray) -> None:
    pairs = [Utterance("a", None, sentence, transcript=SAID), Utterance("b", None, sentence)]
    first, second = evaluate(pairs, {}, 16_000, ["characters"], asr=whisper).rows
    assert first.values["character_error/degraded"] == 0
    assert second.skipped["character_error/degraded"] == "there is no clean recording"


def test_an_endless_repetition_counts_as_all_wrong_and_unspaced_text_has_no_words(
    whisper: Whisper, speech: np.ndarray
) -> None:
    def errors(transcript: str, language: str) -> tuple[dict[str, float], dict[str, str]]:
        signal = Signal(speech, 16_000, language, transcript, whisper)
        return measure("characters", SignalPair(None, signal))

    assert errors("a", "en")[0] == {"character_error": 1.0, "word_error": 1.0}
    values, skipped = errors("ログイン", "ja_jp")
    assert list(values) == ["character_error"]
    assert skipped == {"word_error": "'ja_jp' is written without spaces between words"}
    assert set(errors("…", "en")[1].values()) == {"no word in the transcript"}
    assert (
        "whisper-base does not know the language 'ckb_iq'; it knows af, am, " in errors("a", "ckb_iq")[1]["word_error"]
    )


def test_codes_of_languages() -> None:
    codes = {
        "en_us": "en",
        "EN": "en",
        "cmn_hans_cn": "zh",
        "pt-BR": "pt",
        "nb_no": "no",
        "fil_ph": "tl",
        "jv_id": "jw",
    }
    assert {label: language_code(label) for label in codes} == codes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Don’t stop — it's 5 o'clock!\n", "dont stop its 5 oclock"),
        ("well-known, WELL known", "well known well known"),
        ("Ｌｏｇｉｎ ①", "login 1"),
        ("「コーヒー」を、ください。", "コーヒー を ください"),
        ("STRASSE straße", "strasse strasse"),
        ("¿Qué? ¡No! é", "qué no é"),
        ("می‌خواهم", "میخواهم"),  # a joiner without width
        ("हिन्दी।", "हिन्दी"),
        ("$ % …", ""),
    ],
)
def test_text_is_compared_by_its_letters_and_digits(text: str, expected: str) -> None:
    assert normalise(text) == expected


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
