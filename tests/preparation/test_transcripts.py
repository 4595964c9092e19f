"""Transcripts are found where each corpus keeps them, and one that cannot be used costs no utterance."""

import json
from pathlib import Path

import pytest
from shards import encoded, write_shard
from synthetic_voices import synthetic_voice

from miipher2.audio.io import write_audio
from miipher2.data.manifest import Manifest
from miipher2.preparation.corpora import Corpus, index_corpora
from miipher2.preparation.layouts import list_sounds


def make(folder: Path, sounds: list[str], texts: dict[str, str | bytes]) -> Path:
    for number, name in enumerate(sounds):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(folder / name, synthetic_voice(0.1, seed=number), 16_000)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize(
    ("layout", "sounds", "texts"),
    [
        (
            "libritts_r",
            ["LibriTTS_R/dev-clean/84/1/84_1_0_0.wav", "LibriTTS_R/dev-clean/84/1/84_1_0_1.wav"],
            {
                "LibriTTS_R/dev-clean/84/1/84_1_0_0.normalized.txt": "first words\n",
                "LibriTTS_R/dev-clean/84/1/84_1_0_0.original.txt": "1st words",
            },
        ),
        (
            "jvs",
            ["jvs001/parallel100/wav24kHz16bit/A_001.wav", "jvs001/nonpara30/wav24kHz16bit/B_1.wav"],
            {"jvs001/parallel100/transcripts_utf8.txt": "\ufeffA_001:first words\nA_002:other: words\n"},
        ),
        (
            "fleurs_r",
            ["data/ja_jp/audio/train/7.wav", "data/ja_jp/audio/train/8.wav"],
            {
                "data/ja_jp/train.tsv": "1\t7.wav\tfirst words\tf i r s t\t9\tMALE\n",
                "data/ja_jp/dev.tsv": "2\t8.wav\tno",
            },
        ),
        (
            "vctk",
            ["V/wav48_silence_trimmed/p225/p225_001_mic1.flac", "V/wav48_silence_trimmed/p315/p315_001_mic1.flac"],
            {"V/txt/p225/p225_001.txt": "first words\n"},
        ),
        (
            "vctk",
            ["V/wav48/p225/p225_001.wav", "V/wav48/p225/p225_002.wav"],
            {"V/txt/p225/p225_001.txt": "first words"},
        ),
        ("folder", ["en/a/1.wav", "en/a/2.wav"], {"en/a/1.txt": " first \n words\n", "en/a/notes.txt": "no"}),
        ("folder", ["en/a/1.wav", "en/a/2.wav"], {"en/a/1.lab": "first words"}),
        (
            "folder",
            ["en/a/1.wav", "en/a/2.wav"],
            {"metadata.csv": 'file_name,speaker,transcription\nen/a/1.wav,x,"first words"\nen/none.wav,x,no\n'},
        ),
    ],
)
def test_each_layout_has_its_transcripts(
    layout: str, sounds: list[str], texts: dict[str, str | bytes], tmp_path: Path
) -> None:
    listing = list_sounds(make(tmp_path, sounds, texts), layout)
    assert {sound.name: sound.transcript for sound in listing.sounds} == {sounds[0]: "first words", sounds[1]: ""}


def test_shards_have_transcripts_in_json_or_text(tmp_path: Path) -> None:
    sounds = {f"{number}.flac": encoded(synthetic_voice(0.1, seed=number), tmp_path) for number in range(6)}
    texts = {
        "0.json": json.dumps({"speaker": "a", "text": "first  words"}).encode(),
        "1.json": json.dumps({"transcript": "said", "text": "not this"}).encode(),
        "2.json": json.dumps({"text": ["no", "text"]}).encode(),
        "3.txt": "\ufeffbeside\n".encode(),
        "4.txt": b"\xff\xfe",
        "5.lab": b"0 100 sil\n100 200 a\n",
    }
    write_shard(tmp_path / "shards/a.tar", sounds | texts)
    listing = list_sounds(tmp_path / "shards", "webdataset")
    assert [sound.transcript for sound in listing.sounds] == ["first words", "said", "", "beside", "", ""]
    assert not listing.broken


def test_a_text_that_is_no_transcript_is_counted_and_its_utterance_kept(tmp_path: Path) -> None:
    sounds = [f"en/{number}.wav" for number in range(3)]
    texts: dict[str, str | bytes] = {
        "en/0.txt": b"\xff\xfe",
        "en/1.lab": "0.0 0.5 sil\n0.5 1.0 a\n",
        "en/2.txt": "words",
    }
    listing = list_sounds(make(tmp_path, sounds, texts), "folder")
    assert [sound.transcript for sound in listing.sounds] == ["", "", "words"]
    assert listing.passed_over["transcripts that are not words in UTF-8"] == 2


def test_transcripts_reach_the_manifest_and_change_no_digest(tmp_path: Path) -> None:
    sounds = [f"en/{number}.wav" for number in range(40)]
    make(tmp_path / "with", sounds, {f"en/{number}.txt": f"words {number}" for number in range(40)})
    make(tmp_path / "without", sounds, {})
    both = [
        Manifest.from_utterances(index_corpora({"folder": Corpus(tmp_path / name)}, tmp_path).rows)
        for name in ("with", "without")
    ]
    assert both[0].digest == both[1].digest
    assert {row.transcript for row in map(both[0].row, range(40))} == {f"words {number}" for number in range(40)}
    both[0].write(tmp_path / "manifest.parquet")
    assert Manifest.read(tmp_path / "manifest.parquet").row(0).transcript.startswith("words ")
