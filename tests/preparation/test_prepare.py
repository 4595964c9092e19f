"""Preparation gives equal bytes for equal input, reports what it could not use, and replaces its folder atomically."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyroomacoustics
import pytest
import soundfile
from data_configs import prepare_folder
from synthetic_voices import synthetic_voice

from miipher2.audio.io import read_audio, write_audio
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.data.manifest import Manifest
from miipher2.preparation import rooms
from miipher2.rng import stream


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_corpus(folder: Path, files: int = 4) -> Path:
    (folder / "en").mkdir(parents=True)
    for index in range(files):
        write_audio(folder / "en" / f"{index}.wav", synthetic_voice(0.3, seed=index), 16000)
    return folder


def test_preparing_twice_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    before = tree(root / "data/prepared")
    copy = tmp_path / "copy"
    shutil.copytree(root / "data/speech", copy / "data/speech")
    prepare_folder(copy / "data/speech", copy / "data/prepared", copy, seed=3, noise_files=12, rooms=6)
    assert tree(copy / "data/prepared") == before
    assert [path.name for path in (copy / "data").iterdir() if path.name.startswith(".")] == []
    prepare_folder(copy / "data/speech", copy / "data/prepared", copy, seed=4, noise_files=12, rooms=6)
    after = tree(copy / "data/prepared")
    assert after["manifest.parquet"] == before["manifest.parquet"]
    assert after["rooms/00000.wav"] != before["rooms/00000.wav"]
    assert after["noise/0000_white.flac"] != before["noise/0000_white.flac"]


def test_responses_start_with_their_direct_path(root: Path) -> None:
    pool = Manifest.read(root / "data/prepared/rooms.parquet")
    assert len(pool) == 6
    for index in range(len(pool)):
        wave, rate_hz = read_audio(root / pool.row(index).path)
        assert rate_hz == 16000
        assert wave[0] == 1.0
        assert 0.02 < len(wave) / rate_hz < 1.5


def test_noises_are_of_every_type_at_one_level(root: Path) -> None:
    noises = Manifest.read(root / "data/prepared/noise.parquet")
    kinds = [noises.row(index).speaker for index in range(len(noises))]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ["white", "pink", "brown", "hum", "clicks", "babble"], 2
    )
    for index in range(len(noises)):
        wave, _ = read_audio(root / noises.row(index).path)
        assert 0.02 < np.sqrt(np.mean(wave**2)) < 0.06


def test_report_lists_everything_unusual_and_everything_dropped(tmp_path: Path) -> None:
    source = make_corpus(tmp_path / "speech")
    clipped = np.clip(5 * synthetic_voice(0.3, seed=9), -1, 1)
    write_audio(source / "en/clipped.wav", clipped, 16000)
    write_audio(source / "en/silent.wav", np.zeros(800, np.float32), 16000)
    write_audio(source / "en/stereo.wav", np.stack([synthetic_voice(0.3, 22050, 10)] * 2), 22050)
    shutil.copy(source / "en/0.wav", source / "en/zcopy.wav")
    (source / "en/broken.flac").write_bytes(b"fLaC but no more")
    soundfile.write(source / "en/zero.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(source / "en/nan.wav", np.full(9, np.nan, np.float32), 16000, "FLOAT")
    (source / "readme.txt").write_text("no sound")
    report = prepare_folder(source, tmp_path / "prepared", tmp_path, noise_files=2, on_bad_file="skip")
    assert report == json.loads((tmp_path / "prepared/report.json").read_text())
    assert report["clipped"] == ["speech/en/clipped.wav"]
    assert report["silent"] == ["speech/en/silent.wav"]
    assert report["duplicates"] == [{"path": "speech/en/zcopy.wav", "same_as": "speech/en/0.wav"}]
    assert [entry["path"].rpartition("/")[2] for entry in report["unreadable"]] == [
        "broken.flac",
        "nan.wav",
        "zero.wav",
    ]
    assert all(entry["reason"] for entry in report["unreadable"])
    assert sum(report["passed_over"].values()) == 1
    assert report["utterances"] == 7
    assert sum(split["utterances"] for split in report["splits"].values()) == 7
    assert report["sample_rates_hz"] == {"16000": 7, "22050": 1}
    assert report["channels"] == {"1": 7, "2": 1}


def test_held_out_list_selects_the_test_split_and_copies_of_its_files(tmp_path: Path) -> None:
    source = make_corpus(tmp_path / "speech", 6)
    shutil.copy(source / "en/3.wav", source / "en/0copy.wav")
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("en/3.wav\nen/5.wav\n")
    prepare_folder(source, tmp_path / "p", tmp_path, held_out=str(held_out))
    test = Manifest.read(tmp_path / "p/manifest.parquet").select("test")
    names = sorted(Path(test.row(index).path).name for index in range(len(test)))
    assert names == ["0copy.wav", "5.wav"]
    held_out.write_text("en/3.wav\nen/nobody.wav\n")
    with pytest.raises(ValueError, match=r"held_out\.txt.*en/nobody\.wav"):
        prepare_folder(source, tmp_path / "p", tmp_path, held_out=str(held_out))


def test_the_users_noises_and_rooms_are_used(tmp_path: Path) -> None:
    source = make_corpus(tmp_path / "speech")
    (tmp_path / "noise").mkdir()
    (tmp_path / "rooms").mkdir()
    write_audio(tmp_path / "noise/wind.wav", synthetic_voice(0.5, 44100, 1), 44100)
    response = np.zeros(4800, np.float32)
    response[480], response[960] = -0.5, 0.25
    write_audio(tmp_path / "rooms/hall.wav", response, 48000)
    folders = {"noise_folder": "noise", "rooms_folder": "rooms"}
    report = prepare_folder(source, tmp_path / "p", tmp_path, **folders)
    assert Manifest.read(tmp_path / "p/noise.parquet").row(0).path == "noise/wind.wav"
    wave, rate_hz = read_audio(tmp_path / "p/rooms/00000.wav")
    assert rate_hz == 16000
    assert wave[0] == 1.0
    assert wave[160] == pytest.approx(-0.5, abs=0.01)
    assert report["noise"]["made"] == report["rooms"]["made"] == "given"


def test_a_source_without_speech_is_an_error_and_the_earlier_folder_stays(tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    prepare_folder(make_corpus(tmp_path / "speech"), prepared, tmp_path)
    before = tree(prepared)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_text("x")
    make_corpus(tmp_path / "few", 2)
    for name, error, reason in [
        ("missing", FileNotFoundError, "does not exist"),
        ("empty", ValueError, "no sound file"),
        ("bad", ValueError, r"none of its 1 sound files"),
        ("few", ValueError, r"2 usable utterances"),
    ]:
        with pytest.raises(error, match=rf"{name}: .*{reason}"):
            prepare_folder(tmp_path / name, prepared, tmp_path)
    assert tree(prepared) == before


def test_reverberation_times_are_in_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the slope of the remaining energy (Schroeder 1965), between 5 and 25 dB down."""
    drawn_seconds, sabine = [], pyroomacoustics.inverse_sabine

    def recorded(seconds: float, sides: np.ndarray) -> Any:
        absorption = sabine(seconds, sides)
        drawn_seconds.append(seconds)
        return absorption

    monkeypatch.setattr(pyroomacoustics, "inverse_sabine", recorded)
    ratios = []
    for index in range(12):
        response = rooms.simulate_room(stream(0, "rt60", index)).astype(np.float64)
        remaining_db = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] / np.sum(response**2))
        inside = np.flatnonzero((remaining_db < -5) & (remaining_db > -25))
        slope_db = np.polyfit(inside / SAMPLE_RATE_HZ, remaining_db[inside], 1)[0]
        assert 0.2 <= drawn_seconds[-1] <= 0.5
        ratios.append(-60 / slope_db / drawn_seconds[-1])
    # Sabine's formula, which the walls' absorption is chosen by, is for a diffuse field; a small shoe box is none.
    assert 0.9 < np.median(ratios) < 1.3, ratios
    assert all(0.5 < ratio < 2.0 for ratio in ratios), ratios
