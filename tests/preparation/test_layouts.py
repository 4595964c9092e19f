"""Published layouts give speaker, language and split, on small trees laid out like the corpora."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from synthetic_voices import synthetic_voice

from miipher2.audio.io import write_audio
from miipher2.config.schema_data import CORPUS_LAYOUTS, CorpusConfig
from miipher2.data.manifest import SPLITS, Manifest
from miipher2.preparation.corpora import Corpus, index_corpora
from miipher2.preparation.layouts import TREE_LAYOUTS, list_sounds

LIBRITTS = [
    f"LibriTTS_R/{subset}/{speaker}/1241/{speaker}_1241_000000_{index:06d}.wav"
    for subset, speaker in (
        ("train-clean-100", "103"),
        ("train-other-500", "20"),
        ("dev-clean", "84"),
        ("test-other", "367"),
    )
    for index in range(2)
]
JVS = [
    f"jvs_ver1/jvs{speaker:03d}/{kind}/wav24kHz16bit/VOICEACTRESS100_{index:03d}.wav"
    for speaker in range(1, 4)
    for kind in ("parallel100", "nonpara30", "whisper10", "falset10")
    for index in range(2)
]
FLEURS = [
    f"data/{language}/audio/{split}/{number}.wav"
    for language in ("ja_jp", "cmn_hans_cn", "es_419")
    for split, number in (("train", 1), ("train", 2), ("dev", 3), ("test", 4))
]
VCTK = [
    f"VCTK/wav48_silence_trimmed/{speaker}/{speaker}_{index:03d}_{microphone}.flac"
    for speaker in ("p225", "p226", "s5")
    for index in range(2)
    for microphone in ("mic1", "mic2")
]


def make(folder: Path, names: Sequence[str]) -> Path:
    """Write a tree of different sounds, with a text beside each and one sound that belongs to no layout."""
    for index, name in enumerate([*names, "extra/room_tone.wav"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, synthetic_voice(0.1, seed=index), 16000)
        path.with_suffix(".normalized.txt").write_text("words")
    return folder


def labels(folder: Path, layout: str, subsets: tuple[str, ...] | None = None) -> set[tuple[str, str, str | None]]:
    sounds = list_sounds(folder, layout, subsets).sounds
    return {(sound.speaker, sound.language, sound.split) for sound in sounds}


def test_schema_names_the_layouts_there_are() -> None:
    assert ("folder", *TREE_LAYOUTS, "webdataset") == CORPUS_LAYOUTS


def test_libritts_r_has_speakers_and_splits_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, LIBRITTS)
    assert labels(tmp_path, "libritts_r") == {
        ("103", "en", "train"),
        ("20", "en", "train"),
        ("84", "en", "valid"),
        ("367", "en", "test"),
    }
    listing = list_sounds(tmp_path, "libritts_r", ("train-clean-100", "dev-clean"))
    assert {sound.speaker for sound in listing.sounds} == {"103", "84"}
    assert listing.left_out == 5  # four of other subsets, and the room tone
    assert listing.passed_over.total() == 9


def test_jvs_leaves_out_whispers_and_falsetto_by_default(tmp_path: Path) -> None:
    make(tmp_path, JVS)
    assert labels(tmp_path, "jvs") == {(f"jvs{speaker:03d}", "ja", None) for speaker in (1, 2, 3)}
    assert len(list_sounds(tmp_path, "jvs").sounds) == 12
    whispers = list_sounds(tmp_path, "jvs", ("whisper10",)).sounds
    assert len(whispers) == 6
    assert all("/whisper10/" in sound.name for sound in whispers)


def test_fleurs_r_has_languages_and_splits(tmp_path: Path) -> None:
    make(tmp_path, FLEURS)
    languages, splits = ("ja_jp", "cmn_hans_cn", "es_419"), ("train", "valid", "test")
    assert labels(tmp_path, "fleurs_r") == {("unknown", language, split) for language in languages for split in splits}
    assert {language for _, language, _ in labels(tmp_path, "fleurs_r", ("ja_jp",))} == {"ja_jp"}


def test_vctk_takes_one_microphone_and_the_older_version_has_one(tmp_path: Path) -> None:
    make(tmp_path / "new", VCTK)
    for microphone in ("mic1", "mic2"):
        sounds = list_sounds(tmp_path / "new", "vctk", (microphone,)).sounds
        assert len(sounds) == 6
        assert all(sound.name.endswith(f"_{microphone}.flac") for sound in sounds)
    assert labels(tmp_path / "new", "vctk") == {(speaker, "en", None) for speaker in ("p225", "p226", "s5")}
    make(tmp_path / "old", [f"VCTK-Corpus/wav48/p225/p225_{index:03d}.wav" for index in range(3)])
    assert len(list_sounds(tmp_path / "old", "vctk", ("mic1",)).sounds) == 3


@pytest.mark.parametrize("layout", ["libritts_r", "jvs", "fleurs_r", "vctk"])
def test_a_folder_in_another_layout_is_an_error_with_an_example(tmp_path: Path, layout: str) -> None:
    make(tmp_path, ["en/alice/1.wav"])
    with pytest.raises(ValueError, match=rf"holds no file laid out as {layout}; there should be some like"):
        list_sounds(tmp_path, layout)


def test_unknown_layouts_subsets_and_folders_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, LIBRITTS)
    with pytest.raises(ValueError, match=r"nothing of the subset train-clean-360 of libritts_r"):
        list_sounds(tmp_path, "libritts_r", ("train-clean-100", "train-clean-360"))
    with pytest.raises(ValueError, match="layout=librispeech: should be one of folder, libritts_r"):
        CorpusConfig(folder="x", layout="librispeech")
    with pytest.raises(ValueError, match="the layout folder has no subsets"):
        list_sounds(tmp_path, "folder", ("en",))
    with pytest.raises(FileNotFoundError, match="none: does not exist"):
        list_sounds(tmp_path / "none", "jvs")


def test_published_splits_are_kept_by_default(tmp_path: Path) -> None:
    make(tmp_path, LIBRITTS)
    corpora = {"libritts_r": Corpus(tmp_path, "libritts_r")}
    published = Manifest.from_utterances(index_corpora(corpora, tmp_path).rows)
    assert [len(published.select(split)) for split in SPLITS] == [4, 2, 2]
    ruled = Manifest.from_utterances(index_corpora(corpora, tmp_path, as_published=False).rows)
    assert [len(ruled.select(split)) for split in SPLITS] != [4, 2, 2]
    only = {"libritts_r": Corpus(tmp_path, "libritts_r", ("train-clean-100",))}
    with pytest.raises(ValueError, match=r"leave nothing for valid and test.*data\.splits=rule"):
        index_corpora(only, tmp_path)


def test_a_mixture_names_the_corpus_of_each_row_and_drops_duplicates(tmp_path: Path) -> None:
    make(tmp_path / "a", LIBRITTS)
    make(tmp_path / "b", [*JVS, "jvs_ver1/jvs001/parallel100/wav24kHz16bit/X.wav"])
    copy = tmp_path / "b/jvs_ver1/jvs001/parallel100/wav24kHz16bit/X.wav"
    copy.write_bytes((tmp_path / "a" / LIBRITTS[0]).read_bytes())
    # The two trees begin with the same voices: all that JVS shares with LibriTTS-R is LibriTTS-R's.
    corpora = {"en": Corpus(tmp_path / "a", "libritts_r"), "ja": Corpus(tmp_path / "b", "jvs")}
    index = index_corpora(corpora, tmp_path)
    manifest = Manifest.from_utterances(index.rows)
    assert len(manifest.select(corpus="en")) == len(LIBRITTS)
    assert len({row.sha256 for row in index.rows}) == len(index.rows)
    assert f"b/{copy.relative_to(tmp_path / 'b')}" in {name for name, _ in index.duplicates}
    with pytest.raises(ValueError, match=r"held_out=list\.txt: lists the files of one corpus"):
        index_corpora(corpora, tmp_path, held_out=Path("list.txt"))
