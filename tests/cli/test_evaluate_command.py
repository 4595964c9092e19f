"""`miipher2 evaluate`: folders in, tables and a page out, with a reason for all that cannot be measured."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import Command

from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.rng import stream

RATE_HZ = 16_000
METRICS = ("--metrics", "log_mel,log_spectral_distance,bands")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Return three recordings in each of three folders."""
    for i in range(3):
        time = np.arange(RATE_HZ) / RATE_HZ
        clean = (0.2 * np.sin(2 * np.pi * (200 + 50 * i) * time)).astype(np.float32)
        noise = stream(i, "noise").standard_normal(RATE_HZ).astype(np.float32)
        for folder, amount in (("clean", 0.0), ("degraded", 0.05), ("restored", 0.01)):
            path = tmp_path / folder / "a" / f"u{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, clean + np.float32(amount) * noise, RATE_HZ)
    return {name: tmp_path / name for name in ("clean", "degraded", "restored")}


def words(folders: dict[str, Path], *more: str) -> tuple[str, ...]:
    out = str(folders["clean"].parent / "out")
    return ("evaluate", *(str(path) for path in folders.values()), "--out", out, *METRICS, *more)


def test_three_folders_give_the_same_rows_table_and_page_twice(folders: dict[str, Path], miipher2: Command) -> None:
    out = folders["clean"].parent / "out"
    result = miipher2(*words(folders))
    assert (result.code, result.error) == (0, "")
    assert "log_mel" in result.out
    written = [line.removeprefix("wrote ") for line in result.out.splitlines() if line.startswith("wrote ")]
    assert sorted(written) == sorted(str(path) for path in out.iterdir())
    rows = list(csv.DictReader((out / "evaluate.csv").open()))
    assert [row["name"] for row in rows] == ["a/u0", "a/u1", "a/u2"]
    for row in rows:
        assert float(row["log_mel/restored"]) < float(row["log_mel/degraded"])
    metrics = json.loads((out / "evaluate.json").read_text())
    assert set(metrics["log_mel"]) >= {"degraded", "spectral_subtraction", "restored"}
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "index.html" in before
    assert miipher2(*words(folders)).code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no partner", "a/u0: degraded: there is no such recording"),
        ("no result", "a/u0: restored: there is no such recording"),
        ("rate", "a/u0: restored: 24000 Hz; the others have 16000 Hz; --rate 16000 resamples"),
        ("length", "a/u0: restored: 0.50 s; the first recording has 1.00 s"),
        ("silence", "a/u0: clean: silent, no reference"),
        ("nan", "should be finite"),
        ("not audio", "cannot be read as sound"),
    ],
)
def test_recording_that_cannot_be_measured_is_a_row_and_exit_code_1(
    case: str, reason: str, folders: dict[str, Path], miipher2: Command
) -> None:
    degraded, restored, clean = (folders[name] / "a/u0.wav" for name in ("degraded", "restored", "clean"))
    wave = read_audio(restored)[0]
    match case:
        case "no partner":
            degraded.unlink()
        case "no result":
            restored.unlink()
        case "rate":
            write_audio(restored, wave, 24_000)
        case "length":
            write_audio(restored, wave[:8000], RATE_HZ)
        case "silence":
            write_audio(clean, np.zeros_like(wave), RATE_HZ)
        case "nan":
            write_audio(degraded, wave, RATE_HZ, "FLOAT")
            degraded.write_bytes(degraded.read_bytes()[:-4] + np.float32(np.nan).tobytes())
        case _:
            degraded.write_text("not audio")
    result = miipher2(*words(folders))
    assert result.code == 1
    assert reason in result.error
    rows = {row["name"]: row for row in csv.DictReader((folders["clean"].parent / "out/evaluate.csv").open())}
    assert rows["a/u0"]["counted"] == "no"
    assert rows["a/u0"]["reason"]
    assert float(rows["a/u1"]["log_mel/restored"]) > 0.0


def test_language_may_be_each_recordings_first_folder(folders: dict[str, Path], miipher2: Command) -> None:
    assert miipher2(*words(folders, "--language", "folder")).code == 0
    rows = csv.DictReader((folders["clean"].parent / "out/evaluate.csv").open())
    assert {row["language"] for row in rows} == {"a"}


def test_rate_option_resamples_all_recordings(folders: dict[str, Path], miipher2: Command) -> None:
    path = folders["restored"] / "a/u0.wav"
    wave = read_audio(path)[0]
    write_audio(path, resample(wave, RATE_HZ, 24_000), 24_000)
    result = miipher2(*words(folders, "--rate", "16000", "--max-delay", "0.1"))
    assert (result.code, result.error) == (0, "")


def test_metrics_skipped_without_clean_recordings_are_named(folders: dict[str, Path], miipher2: Command) -> None:
    result = miipher2("evaluate", "-", *words(folders)[2:])
    assert "skipped: log_mel: there is no clean recording (9x)" in result.out
    assert result.code == 0
    assert (folders["clean"].parent / "out/index.html").read_text().count("<audio") == 3 * 3 + 3 * 2


def test_nothing_measurable_gives_rows_with_reasons_and_exit_code_1(
    folders: dict[str, Path], miipher2: Command
) -> None:
    out = folders["clean"].parent / "out"
    for path in folders["clean"].rglob("*.wav"):
        write_audio(path, np.zeros(RATE_HZ, np.float32), RATE_HZ)
    result = miipher2(*words(folders))
    assert (result.code, result.error.splitlines()[0]) == (1, "a/u0: clean: silent, no reference")
    assert [row["reason"] for row in csv.DictReader((out / "evaluate.csv").open())] == [
        "clean: silent, no reference"
    ] * 3
    for path in folders["degraded"].rglob("*.wav"):
        path.write_text("not audio")
    result = miipher2(*words(folders))
    assert result.code == 1
    assert len(result.error.splitlines()) == 3
    rows = list(csv.DictReader((out / "evaluate.csv").open()))
    assert all("cannot be read as sound" in row["reason"] for row in rows)


def test_words_are_compared_with_the_transcript_beside_the_clean_recording(
    tmp_path: Path, miipher2: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip = ROOT / "data/embedded/it/dir_first.flac"
    clean, noisy = tmp_path / "clean/a.flac", tmp_path / "noisy/a.flac"
    for path in (clean, noisy):
        path.parent.mkdir()
        shutil.copyfile(clip, path)
    clean.with_suffix(".txt").write_text("Lettere del nome del tuo interlocutore")
    options = ("--metrics", "characters", "--asr", "whisper-base", "--out", tmp_path / "out")
    result = miipher2("evaluate", clean.parent, noisy.parent, noisy.parent, *options)
    assert (result.code, result.error) == (0, "")
    (row,) = csv.DictReader((tmp_path / "out/evaluate.csv").open())
    assert row["words_transcript"] == "Lettere del nome del tuo interlocutore"
    assert row["words_language"] == "it"
    assert [float(row[f"character_error/{name}"]) for name in ("clean", "degraded", "restored")] == [0, 0, 0]
    for text in (
        result.out,
        (tmp_path / "out/index.html").read_text(),
        (tmp_path / "out/evaluate_details.json").read_text(),
    ):
        assert "ecognised by whisper-base (model.bin has the sha256 d01c3014881c9c6f) by faster-whisper 1.2.1" in text
        assert "compared with the transcripts of 1 utterances" in text
    clean.with_suffix(".txt").write_bytes(b"\xff\xfe")
    result = miipher2("evaluate", clean.parent, noisy.parent, noisy.parent, *options)
    assert (result.code, result.error) == (
        1,
        f"a: transcript: {tmp_path / 'clean/a.txt'}: is not UTF-8; should be a transcript\n",
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--asr", "whisper-base"), "--asr whisper-base: --metrics log_mel,log_spectral_distance,bands should have"),
        (("--asr", ""), "argument --asr: is empty"),
        (("--asr", "nothing", "--metrics", "characters"), "asr.model=nothing: no such folder or model; should be"),
        (("--asr-type", "float16"), "argument --asr-type: invalid choice: 'float16'"),
    ],
)
def test_a_wrong_recogniser_is_one_line_and_writes_nothing(
    more: tuple[str, ...], reason: str, folders: dict[str, Path], miipher2: Command
) -> None:
    result = miipher2(*words(folders, *more))
    assert (result.code, result.error.count("\n")) == (2, 1)
    assert reason in result.error
    assert not (folders["clean"].parent / "out").exists()
