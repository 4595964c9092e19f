"""Published layouts of corpora: which sound files belong to one; speaker, language, split and transcript of each."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from miipher2.audio.decode import FileSection
from miipher2.audio.files import find_sound_files, printable
from miipher2.preparation.tar_shards import find_shards, read_index
from miipher2.preparation.transcripts import TranscriptReader, transcript_of

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sound:
    """A sound of a corpus, not opened yet: its name below the corpus's folder, and what path and texts tell."""

    name: str
    source: Path | FileSection
    speaker: str
    language: str
    split: str | None = None  # as published; None if the corpus has no published splits
    transcript: str = ""


@dataclass
class Listing:
    """The content of a corpus's folder: sounds in the order of their names, and what is left out."""

    sounds: list[Sound] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)  # shards that cannot be listed, with the reason
    left_out: int = 0  # sounds that the layout or `subsets` exclude
    passed_over: Counter[str] = field(default_factory=Counter)  # files that are no sound, by reason


@dataclass(frozen=True)
class TreeLayout:
    """A tree of sound files whose paths, from any parent folder on, match `pattern`.

    Its groups are `speaker`, `language`, `split` and `subset`; `subsets` selects by the last.
    """

    pattern: str
    example: str
    language: str = UNKNOWN
    splits: tuple[tuple[str, str], ...] = ()  # prefix of the published split's name, and ours
    default_subsets: tuple[str, ...] | None = None  # None: all

    def match(self, name: str) -> dict[str, str | None] | None:
        """Return the pattern's groups in a file's name; None if it does not match."""
        match = re.fullmatch(rf"(?:.*/)?{self.pattern}", name)
        return None if match is None else match.groupdict()

    def sound(self, name: str, source: Path, groups: dict[str, str | None]) -> Sound:
        """Return a file with the labels of its path."""
        published = groups.get("split") or groups.get("subset") or ""
        split = next((ours for prefix, ours in self.splits if published.startswith(prefix)), None)
        speaker, language = groups.get("speaker") or UNKNOWN, groups.get("language") or self.language
        return Sound(name, source, speaker, language, split)


_PUBLISHED_SPLITS = (("train", "train"), ("dev", "valid"), ("test", "test"))
# `CORPUS_LAYOUTS` in the schema is "folder", these, and "webdataset".
TREE_LAYOUTS = {
    # Koizumi et al. 2023 (arXiv:2305.18802); as LibriTTS.
    "libritts_r": TreeLayout(
        r"(?P<subset>(?:train|dev|test)-(?:clean|other)(?:-\d+)?)/(?P<speaker>\d+)/\d+/[^/]+\.wav",
        "train-clean-100/103/1241/103_1241_000000_000001.wav",
        language="en",
        splits=_PUBLISHED_SPLITS,
    ),
    # Takamichi et al. 2019 (arXiv:1908.06248). Whispered and falsetto speech, ten sentences per speaker, is left out by
    # default.
    "jvs": TreeLayout(
        r"(?P<speaker>jvs\d{3})/(?P<subset>parallel100|nonpara30|whisper10|falset10)/wav24kHz16bit/[^/]+\.wav",
        "jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav",
        language="ja",
        default_subsets=("parallel100", "nonpara30"),
    ),
    # Ma et al. 2024 (arXiv:2408.06227), with its archives unpacked in place; it names no speakers.
    "fleurs_r": TreeLayout(
        r"(?P<subset>(?P<language>[a-z]{2,3}(?:_[a-z0-9]+)+))/(?:audio/)?(?P<split>train|dev|test)/[^/]+\.wav",
        "ja_jp/audio/train/1004.wav",
        splits=_PUBLISHED_SPLITS,
    ),
    # Yamagishi et al. 2019 (version 0.92, two microphones, FLAC) and earlier ones (WAV, one microphone).
    "vctk": TreeLayout(
        r"(?:wav48_silence_trimmed|wav48)/(?P<speaker>[ps]\d+)/[^/]+?(?:_(?P<subset>mic[12])\.flac|\.wav)",
        "wav48_silence_trimmed/p225/p225_001_mic1.flac",
        language="en",
        default_subsets=("mic1",),
    ),
}


def list_sounds(folder: Path, layout: str, subsets: Collection[str] | None = None) -> Listing:
    """Return the sounds of a corpus.

    Args:
        layout: one of `CORPUS_LAYOUTS`.
        subsets: the parts of the corpus to take: subsets of LibriTTS-R, languages of FLEURS-R, kinds of JVS,
            microphones of VCTK. None takes the layout's default.

    Raises:
        FileNotFoundError: the folder is missing, or is a file.
        ValueError: no file matches the layout, or a subset is missing.
    """
    if not folder.is_dir():
        state = "is a file" if folder.is_file() else "does not exist"
        raise FileNotFoundError(f"{folder}: {state}; it should be a folder of sound files")
    if subsets is not None and layout not in TREE_LAYOUTS:
        raise ValueError(f"{folder}: the layout {layout} has no subsets; leave {', '.join(subsets)} out")
    listing = _list_shards(folder) if layout == "webdataset" else _list_folder(folder, layout, subsets)
    not_utf8 = [sound for sound in listing.sounds if printable(sound.name) != sound.name]
    listing.broken += [(printable(sound.name), "its name is not UTF-8; rename it") for sound in not_utf8]
    listing.sounds = [sound for sound in listing.sounds if sound not in not_utf8] if not_utf8 else listing.sounds
    return listing


def _list_folder(folder: Path, layout: str, subsets: Collection[str] | None) -> Listing:
    files = find_sound_files(folder)
    names = [path.relative_to(folder).as_posix() for path in files.paths]
    listing = Listing(passed_over=files.passed_over)
    if layout == "folder":
        listing.sounds = [Sound(name, folder / name, *_labels_of_folders(name)) for name in names]
    else:
        _list_tree(listing, folder, layout, names, subsets)
    transcripts = TranscriptReader(folder, layout)
    listing.sounds = [replace(sound, transcript=transcripts.read(folder / sound.name)) for sound in listing.sounds]
    listing.passed_over += transcripts.faults
    return listing


def _list_tree(listing: Listing, folder: Path, name: str, paths: list[str], subsets: Collection[str] | None) -> None:
    layout = TREE_LAYOUTS[name]
    selected = layout.default_subsets if subsets is None else tuple(subsets)
    matches = [(path, groups) for path in paths if (groups := layout.match(path)) is not None]
    listing.sounds = [
        layout.sound(path, folder / path, groups)
        for path, groups in matches
        # A path without a subset (the first VCTK) belongs to every one.
        if selected is None or groups.get("subset") in (None, *selected)
    ]
    listing.left_out = len(paths) - len(listing.sounds)
    if not matches:
        raise ValueError(f"{folder}: holds no file laid out as {name}; there should be some like {layout.example}")
    present = {groups.get("subset") for _, groups in matches}
    if subsets is not None and None not in present and (missing := sorted({*subsets} - present)):
        raise ValueError(f"{folder}: holds nothing of the subset {', '.join(missing)} of {name}")


def _list_shards(folder: Path) -> Listing:
    """List the sounds of tar shards; speaker and language come from a sample's JSON, or else from its folders."""
    listing = Listing()
    shards = find_shards(folder)
    if not shards:
        raise ValueError(f"{folder}: holds no tar shard; there should be some like train-000000.tar")
    for shard in shards:
        samples, others, fault = read_index(shard)
        shard_name = shard.relative_to(folder).as_posix()
        listing.passed_over["other members of tar files"] += others
        if fault is not None:
            listing.broken.append((printable(shard_name), fault))
        for sample in samples:
            speaker, language = _labels_of_folders(sample.sound.member)
            try:
                speaker = _first(sample.fields, ("speaker", "speaker_id")) or speaker
                language = _first(sample.fields, ("language", "lang")) or language
            except ValueError as error:
                listing.broken.append((printable(f"{shard_name}:{sample.sound.member}"), str(error)))
                continue
            name, transcript = f"{shard_name}:{sample.sound.member}", transcript_of(sample.fields)
            listing.sounds.append(Sound(name, sample.sound, speaker, language, transcript=transcript))
    return listing


def _first(fields: Mapping[str, Any], keys: Collection[str]) -> str:
    """Return the first of some fields that has a value, as text; null, NaN, infinity and blank text are none.

    Raises:
        ValueError: a value is neither text nor a number.
    """
    for key in keys:
        value = fields.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ValueError(f"'{key}' in its JSON is {json.dumps(value)}; should be text or a number")
        if value is not None and (value.strip() if isinstance(value, str) else math.isfinite(value)):
            return str(value).strip()
    return ""


def _labels_of_folders(name: str) -> tuple[str, str]:
    """Return the speaker, all folders together, and the language, the first folder."""
    parents = [part for part in PurePosixPath(name).parts[:-1] if part not in (".", "/")]
    return "/".join(parents) or UNKNOWN, parents[0] if parents else UNKNOWN
