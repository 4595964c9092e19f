"""Tar shards are read by byte offset and give the same sounds as files, and every damage is an error."""

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shards import encoded, write_shard
from synthetic_voices import synthetic_voice

from miipher2.atomic_io import sha256_of
from miipher2.audio.decode import AudioError, FileSection
from miipher2.audio.io import read_audio, read_info
from miipher2.data.manifest import Manifest
from miipher2.preparation.corpora import Corpus, index_corpora, scan_corpus
from miipher2.preparation.layouts import list_sounds


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Return a folder of two shards: speakers from JSON in the first, from folders in the second."""
    folder = tmp_path / "shards"
    first = {}
    for index in range(4):
        first[f"{index:04d}.flac"] = encoded(synthetic_voice(0.4, seed=index), tmp_path)
        first[f"{index:04d}.json"] = json.dumps({"speaker": f"s{index}", "language": "ja"}).encode()
        first[f"{index:04d}.txt"] = b"words"
    write_shard(folder / "train-000000.tar", first)
    second = {
        f"en/bob/{index}.clean.wav": encoded(synthetic_voice(0.4, seed=9 + index), tmp_path, ".wav")
        for index in range(3)
    }
    write_shard(folder / "train-000001.tar", second)
    return folder


def test_members_have_speaker_and_language_from_json_or_folders(shards: Path) -> None:
    listing = list_sounds(shards, "webdataset")
    assert [(sound.speaker, sound.language) for sound in listing.sounds] == [
        *((f"s{index}", "ja") for index in range(4)),
        *[("en/bob", "en")] * 3,
    ]
    assert listing.passed_over.total() == 8
    assert listing.broken == []


@pytest.mark.parametrize(
    ("fields", "speaker"),
    [
        ('{"speaker": null}', "en"),
        ('{"speaker": NaN}', "en"),
        ('{"speaker": -Infinity}', "en"),
        ('{"speaker": " "}', "en"),
        ('{"speaker": null, "speaker_id": 17}', "17"),
        ('{"speaker": " ann "}', "ann"),
        ('{"speaker": ["a", "b"]}', r"""'speaker' in its JSON is ["a", "b"]; should be text or a number"""),
        ('{"speaker_id": {"id": 1}}', r"""'speaker_id' in its JSON is {"id": 1}; should be text or a number"""),
        ('{"speaker": true}', "'speaker' in its JSON is true; should be text or a number"),
    ],
)
def test_an_absent_value_is_no_speaker_and_a_list_is_an_error(tmp_path: Path, fields: str, speaker: str) -> None:
    sound = encoded(synthetic_voice(0.4), tmp_path)
    write_shard(tmp_path / "shards/a.tar", {"en/1.flac": sound, "en/1.json": fields.encode()})
    listing = list_sounds(tmp_path / "shards", "webdataset")
    if "should be" in speaker:
        assert (listing.sounds, listing.broken) == ([], [("a.tar:en/1.flac", speaker)])
    else:
        assert [sound.speaker for sound in listing.sounds] == [speaker]


def test_a_member_whose_name_is_not_utf8_is_a_bad_file(tmp_path: Path) -> None:
    sound = encoded(synthetic_voice(0.4), tmp_path)
    write_shard(tmp_path / "shards/a.tar", {os.fsdecode(b"caf\xe9.flac"): sound, "plain.flac": sound})
    listing = list_sounds(tmp_path / "shards", "webdataset")
    assert listing.broken == [(r"a.tar:caf\xe9.flac", "its name is not UTF-8; rename it")]
    assert [sound.name for sound in listing.sounds] == ["a.tar:plain.flac"]


def test_members_read_as_the_files_do_whole_and_in_part(shards: Path, tmp_path: Path) -> None:
    for sound in list_sounds(shards, "webdataset").sounds:
        assert isinstance(sound.source, FileSection)
        with tarfile.open(sound.source.path) as archive:
            content = archive.extractfile(sound.source.member)
            assert content is not None
            plain = tmp_path / f"plain{Path(sound.source.member).suffix}"
            plain.write_bytes(content.read())
        assert sha256_of(sound.source) == sha256_of(plain)
        assert read_info(sound.source) == read_info(plain)
        np.testing.assert_array_equal(read_audio(sound.source)[0], read_audio(plain)[0])
        np.testing.assert_array_equal(read_audio(sound.source, 1000, 50)[0], read_audio(plain, 1000, 50)[0])


def test_rows_locate_their_members_and_the_digest_ignores_the_shards(shards: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_utterances(index_corpora({"x": Corpus(shards, "webdataset")}, tmp_path).rows)
    for index in range(len(manifest)):
        row = manifest.row(index)
        assert sha256_of(row.source(tmp_path)) == row.sha256
        assert row.name == f"{row.path}:{row.member}"
    other = tmp_path / "other"
    for shard in shards.iterdir():  # the same samples, each shard under another name and cut in two
        with tarfile.open(shard) as archive:
            contents = {member.name: archive.extractfile(member).read() for member in archive}
        names = list(contents)
        for part in (0, 1):
            half = names[: len(names) // 6 * 3] if part else names[len(names) // 6 * 3 :]
            write_shard(other / f"{shard.stem}-{part}.tar", {name: contents[name] for name in half})
    again = Manifest.from_utterances(index_corpora({"x": Corpus(other, "webdataset")}, tmp_path).rows)
    assert again.digest == manifest.digest


def test_a_broken_member_is_an_error_or_skipped(shards: Path, tmp_path: Path) -> None:
    good = encoded(synthetic_voice(0.4, seed=30), tmp_path)
    write_shard(shards / "z.tar", {"a.flac": good, "b.flac": good[: len(good) // 2], "c.flac": b"fLaC", "d.wav": b""})
    scanned = scan_corpus(Corpus(shards, "webdataset"), "speech")
    assert [name for name, _ in scanned.unreadable] == ["z.tar:b.flac", "z.tar:c.flac", "z.tar:d.wav"]
    assert len(scanned.files) == 8
    with pytest.raises(ValueError, match=r"3 files cannot be used;.*on_bad_file=skip(.|\n)*z\.tar:b\.flac: "):
        index_corpora({"x": Corpus(shards, "webdataset")}, tmp_path)
    index = index_corpora({"x": Corpus(shards, "webdataset")}, tmp_path, on_bad_file="skip")
    assert len(index.rows) == 8


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda content: content[: len(content) // 2], "is cut off within"),
        (lambda content: content[:-10240].rstrip(b"\0"), "is cut off within|damaged or cut off"),
        (lambda content: content.replace(b"0002.flac", b"0002.\xff\xff\xff\xff"), "is damaged"),
    ],
)
def test_a_damaged_shard_is_used_up_to_the_damage(shards: Path, keep: object, reason: str) -> None:
    path = shards / "train-000000.tar"
    path.write_bytes(keep(path.read_bytes()))  # type: ignore[operator]
    listing = list_sounds(shards, "webdataset")
    ((name, why),) = listing.broken
    assert name == "train-000000.tar"
    assert any(part in why for part in reason.split("|")), why
    assert 1 <= len([sound for sound in listing.sounds if sound.name.startswith("train-000000")]) < 5


def test_compressed_shards_and_folders_without_shards_are_an_error(shards: Path, tmp_path: Path) -> None:
    plain = (shards / "train-000001.tar").read_bytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.tar").write_bytes(gzip.compress(plain))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.tar.gz").write_bytes(gzip.compress(plain))
    for folder in ("a", "b"):
        with pytest.raises(ValueError, match=r"x\.tar.*: is compressed"):
            list_sounds(tmp_path / folder, "webdataset")
    shutil.rmtree(shards)
    shards.mkdir()
    with pytest.raises(ValueError, match="holds no tar shard"):
        list_sounds(shards, "webdataset")


def test_a_missing_shard_is_an_error(shards: Path) -> None:
    sound = list_sounds(shards, "webdataset").sounds[0]
    (shards / "train-000000.tar").unlink()
    with pytest.raises(AudioError, match=r"train-000000\.tar:0000\.flac: cannot be opened"):
        read_audio(sound.source)
