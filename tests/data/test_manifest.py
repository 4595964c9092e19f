"""The manifest identifies files by content, and its digest covers what can alter training."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scanning import scan_folder

from miipher2.audio.io import write_audio
from miipher2.data.manifest import SPLITS, Manifest
from miipher2.rng import stream


def rows(manifest: Manifest) -> list:
    return [manifest.row(index) for index in range(len(manifest))]


def test_written_manifest_reads_back(root: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(root / "data/prepared/manifest.parquet")
    manifest.write(tmp_path / "a.parquet")
    again = Manifest.read(tmp_path / "a.parquet")
    assert rows(again) == rows(manifest)
    assert again.digest == manifest.digest
    assert (tmp_path / "a.parquet").read_bytes() == (root / "data/prepared/manifest.parquet").read_bytes()


def test_a_manifest_from_before_there_were_transcripts_reads(root: Path, tmp_path: Path) -> None:
    path = root / "data/prepared/manifest.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns("transcript"), tmp_path / "a.parquet")
    assert rows(Manifest.read(tmp_path / "a.parquet")) == rows(Manifest.read(path))


def test_splits_are_disjoint_and_complete(root: Path) -> None:
    manifest = scan_folder(root / "data/speech", root)
    parts = [rows(manifest.select(split)) for split in SPLITS]
    assert all(parts)
    assert sorted(row.sha256 for part in parts for row in part) == [row.sha256 for row in rows(manifest)]
    with pytest.raises(ValueError, match="'dev'"):
        manifest.select("dev")


def test_folders_give_language_and_speaker(root: Path) -> None:
    manifest = scan_folder(root / "data/speech", root)
    assert {(row.language, row.speaker) for row in rows(manifest)} == {("en", "en"), ("fr", "fr/alice")}
    assert all(row.path.startswith("data/speech/") for row in rows(manifest))


def test_moving_and_renaming_files_changes_only_paths(root: Path, tmp_path: Path) -> None:
    before = scan_folder(root / "data/speech", root)
    for path in (root / "data/speech").rglob("*.flac"):
        target = tmp_path / "b" / path.parent.relative_to(root / "data/speech") / f"{99 - int(path.stem)}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    after = scan_folder(tmp_path / "b", root)
    assert [dataclasses.replace(row, path="") for row in rows(after)] == [
        dataclasses.replace(row, path="") for row in rows(before)
    ]
    assert after.digest == before.digest
    assert Path(after.row(0).path).is_absolute()


@pytest.mark.parametrize(
    "change",
    [{"sha256": "0" * 64}, {"split": "valid"}, {"speaker": "x"}, {"language": "x"}, {"seconds": 9.0}, {"corpus": "x"}],
)
def test_digest_covers_what_can_alter_training(root: Path, change: dict) -> None:
    train = rows(Manifest.read(root / "data/prepared/manifest.parquet").select("train"))
    changed = [dataclasses.replace(train[0], **change), *train[1:]]
    assert Manifest.from_utterances(changed).digest != Manifest.from_utterances(train).digest
    assert Manifest.from_utterances(reversed(train)).digest == Manifest.from_utterances(train).digest


def test_one_more_file_moves_no_other_to_another_split(tmp_path: Path) -> None:
    for index in range(60):
        wave = stream(index, "x").uniform(-0.1, 0.1, 50).astype(np.float32)
        write_audio(tmp_path / f"{index}.wav", wave, 16000)
    whole = {row.sha256: row.split for row in rows(scan_folder(tmp_path, tmp_path))}
    (tmp_path / "7.wav").unlink()
    fewer = {row.sha256: row.split for row in rows(scan_folder(tmp_path, tmp_path))}
    assert set(whole.values()) == set(SPLITS)
    assert fewer.items() <= whole.items()


def test_missing_and_foreign_manifests_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        Manifest.read(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"bad\.parquet"):
        Manifest.read(tmp_path / "bad.parquet")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        scan_folder(tmp_path / "nowhere", tmp_path)
