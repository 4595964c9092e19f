"""Recorded pairs: every one is aligned in the manifest, or refused with its reason in one line."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from omegaconf import OmegaConf
from recorded_pairs import prepare_pairs, recorded, utterance, write_pairs

from miipher2.audio.io import read_audio, write_audio
from miipher2.config.load import load_config
from miipher2.config.params import compose_config
from miipher2.config.schema_data import PrepareDataConfig
from miipher2.data.manifest import SCHEMA, Manifest, Utterance


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """Return a folder of pairs and their delays."""
    return tmp_path / "pairs", write_pairs(tmp_path / "pairs", 8)


def rows_of(prepared: Path) -> dict[str, Utterance]:
    manifest = Manifest.read(prepared / "manifest.parquet")
    rows = (manifest.row(index) for index in range(len(manifest)))
    return {Path(row.path).with_suffix("").as_posix().partition("clean/")[2]: row for row in rows}


def test_each_pair_is_cut_to_its_common_part(source: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    folder, delays = source
    report = prepare_pairs(folder, tmp_path / "p", tmp_path)
    assert report["refused"] == {}
    assert report["inverted"] == report["utterances"] == 8
    assert report["delay_ms"]["most"] == max(delays.values()) / 16
    assert (tmp_path / "p/refused.txt").read_text() == ""
    rows = rows_of(tmp_path / "p")
    assert rows.keys() == delays.keys()
    for name, row in rows.items():
        seconds = delays[name] / 16_000
        assert row.start_samples == round(max(0, -seconds) * row.sample_rate_hz)
        assert row.degraded_start_samples == round(max(0, seconds) * row.degraded_sample_rate_hz)
        assert row.degraded_path == f"pairs/degraded/{name}.wav"
        spare = []
        for path, (start, samples) in [(row.path, row.span()), (row.degraded_path, row.degraded_span())]:
            assert samples is not None
            spare.append(len(read_audio(tmp_path / path)[0]) - start - samples)
        assert 0 <= min(spare) <= 3  # one of the two is used up; lengths are rounded at each rate


def test_preparing_pairs_twice_gives_the_same_bytes(source: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare_pairs(source[0], tmp_path / name, tmp_path)
    for file in ("manifest.parquet", "manifest.arrow", "report.json", "refused.txt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_cannot_be_used_is_listed_with_its_reason(
    source: tuple[Path, dict[str, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = source
    wave = utterance(50, 64_000)
    heard = recorded(wave, 0, 50)
    gap = np.concatenate([heard[:32_000], heard[32_400:]])
    late, early = recorded(wave, 4100, 50), recorded(wave, -4100, 50)
    other, silent = recorded(utterance(51, 64_000), 0, 50), np.zeros(64_000, np.float32)
    for name, degraded in [("gap", gap), ("late", late), ("early", early), ("other", other), ("silent", silent)]:
        write_audio(folder / f"clean/{name}.wav", wave, 16_000)
        write_audio(folder / f"degraded/{name}.wav", degraded, 16_000)
    write_audio(folder / "clean/alone.wav", wave, 16_000)
    write_audio(folder / "degraded/nobody.wav", wave, 16_000)
    shutil.copy(folder / "degraded/a/00.wav", folder / "degraded/a/01.wave.wav")
    for suffix in ("wav", "flac"):
        write_audio(folder / f"degraded/twice.{suffix}", heard, 16_000)
    write_audio(folder / "clean/twice.wav", wave, 16_000)
    report = prepare_pairs(folder, tmp_path / "p", tmp_path)
    assert report["utterances"] == 8
    counts = {"ambiguous": 1, "drifting": 1, "too late or early": 2, "unlike": 2, "without a partner": 3}
    assert report["refused"] == counts
    lines = (tmp_path / "p/refused.txt").read_text().splitlines()
    sides = {side: folder / side for side in ("clean", "degraded")}
    assert lines == [
        f"a/01.wave: no clean recording that can be read; should be one in {sides['clean']}",
        f"alone: no degraded recording that can be read; should be one in {sides['degraded']}",
        "early: the degraded recording is 0.2562 s earlier; should be within 0.25 s (data.pairs.max_delay_seconds)",
        "gap: the end is 0.0250 s earlier than the beginning; should be within 0.02 s, recorded by one clock and "
        "without gaps",
        "late: the degraded recording is 0.2562 s later; should be within 0.25 s (data.pairs.max_delay_seconds)",
        f"nobody: no clean recording that can be read; should be one in {sides['clean']}",
        *(
            line
            for line in lines
            if line.startswith(("other: correlation 0.0", "silent: correlation 0.000 within 1 s"))
        ),
        f"twice: 2 degraded recordings (twice.flac, twice.wav); should be one in {sides['degraded']}",
    ]
    assert len(lines) == 9
    assert "should be at least 0.1 (data.pairs.min_correlation)" in lines[6]
    assert "9 refused (1 ambiguous, 1 drifting, 2 too late or early, 2 unlike, 3 without a partner)" in caplog.text
    assert str(tmp_path / "p/refused.txt") in caplog.text
    assert prepare_pairs(folder, tmp_path / "p", tmp_path, max_delay_seconds=0.3)["utterances"] == 10


def test_without_a_usable_pair_nothing_is_written(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 6)
    prepare_pairs(tmp_path / "pairs", tmp_path / "p", tmp_path)
    before = (tmp_path / "p/manifest.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"can be used: 6 refused \(6 unlike\)\n  a/00: correlation 0\.\d+ within 1 s"):
        prepare_pairs(tmp_path / "pairs", tmp_path / "p", tmp_path, min_correlation=1.0)
    (tmp_path / "pairs/degraded/a").rename(tmp_path / "pairs/degraded/b")
    with pytest.raises(ValueError, match=r"can be used: 12 refused \(12 without a partner\)\n  a/00: no degraded"):
        prepare_pairs(tmp_path / "pairs", tmp_path / "p", tmp_path)
    shutil.rmtree(tmp_path / "pairs/degraded")
    with pytest.raises(FileNotFoundError, match="degraded: does not exist"):
        prepare_pairs(tmp_path / "pairs", tmp_path / "p", tmp_path)
    assert (tmp_path / "p/manifest.parquet").read_bytes() == before


def test_an_unreadable_recording_stops_or_is_left_out(source: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    folder, _ = source
    (folder / "degraded/a/03.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"1 files cannot be used.*\n  .*degraded/a/03\.wav"):
        prepare_pairs(folder, tmp_path / "p", tmp_path)
    report = prepare_pairs(folder, tmp_path / "p", tmp_path, on_bad_file="skip")
    assert (report["utterances"], report["refused"], report["unreadable_count"]) == (7, {"without a partner": 1}, 1)


def test_one_clean_recording_may_have_several_degraded_ones_in_one_split(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 6)
    (tmp_path / "pairs/degraded/b").mkdir()
    for index in range(6):
        heard = recorded(utterance(index, 24_000 + 800 * index), 90, 100 + index)
        write_audio(tmp_path / f"pairs/degraded/b/{index:02d}.wav", heard, 16_000)
    shutil.copytree(tmp_path / "pairs/clean/a", tmp_path / "pairs/clean/b")
    for side in ("clean", "degraded"):  # and one pair of equal content, under another name
        suffix = "flac" if side == "clean" else "wav"
        shutil.copy(tmp_path / f"pairs/{side}/a/00.{suffix}", tmp_path / f"pairs/{side}/copy.{suffix}")
    report = prepare_pairs(tmp_path / "pairs", tmp_path / "p", tmp_path)
    assert report["utterances"] == 12
    assert report["duplicates"] == [{"path": "pairs/clean/copy.flac", "same_as": "pairs/clean/a/00.flac"}]
    rows = rows_of(tmp_path / "p")
    assert all(rows[f"a/{index:02d}"].split == rows[f"b/{index:02d}"].split for index in range(6))


def test_the_manifest_reads_back_and_still_as_one_without_pairs(
    source: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    prepare_pairs(source[0], tmp_path / "p", tmp_path)
    path = tmp_path / "p/manifest.parquet"
    manifest = Manifest.read(path)
    assert manifest.has_pairs
    table = parquet.read_table(path)
    assert table.schema.names[: len(SCHEMA)] == SCHEMA.names
    again = Manifest.from_table(table)  # decoded, not mapped
    assert [again.row(index) for index in range(len(again))] == [manifest.row(index) for index in range(len(manifest))]
    assert again.digest == manifest.digest
    parquet.write_table(table.select(SCHEMA.names), tmp_path / "plain.parquet")
    plain = Manifest.read(tmp_path / "plain.parquet")
    assert not plain.has_pairs
    assert plain.digest != manifest.digest


@pytest.mark.parametrize("change", ["degraded_sha256", "start_samples", "degraded_start_samples"])
def test_the_digest_covers_the_degraded_side(change: str, source: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    prepare_pairs(source[0], tmp_path / "p", tmp_path)
    rows = list(rows_of(tmp_path / "p").values())
    changes: dict[str, Any] = {change: "0" * 64 if change == "degraded_sha256" else 7}
    digests = {Manifest.from_utterances(each).digest for each in (rows, [replace(rows[0], **changes), *rows[1:]])}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs.max_delay_seconds=0", "pairs.max_delay_seconds=0.0: should be greater than 0"),
        ("pairs.min_correlation=2", "pairs.min_correlation=2.0: should be from 0 to 1"),
        ("pairs.clean=", "pairs.clean='': should not be empty"),
        ("layout=webdataset", "layout=webdataset: should be a tree of files with data.pairs"),
        ("+corpora={x: {folder: x}}", "corpora={'x': .*}: should be empty with data.pairs"),
        ("pairs.degraded=???", "no value for pairs.degraded"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    overrides = ["source=x"]
    with pytest.raises(ValueError, match=message):
        load_config(compose_config("pairs", [*overrides, override], group="data"), "data", PrepareDataConfig)
    config = load_config(compose_config("pairs", overrides, group="data"), "data", PrepareDataConfig)
    assert config.pairs is not None
    assert OmegaConf.structured(PrepareDataConfig).pairs is None
