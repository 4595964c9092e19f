"""The published layouts of corpora: which sound files belong to one, and the speaker, language and split of each."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from miipher2.audio.files import SOUND_SUFFIXES, find_files
from miipher2.audio.io import FileSection
from miipher2.preparation.tar_shards import find_shards, read_index

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sound:
    """A sound of a corpus, not opened yet: its name below the corpus's folder, and what its place says of it."""

    name: str
    source: Path | FileSection
    speaker: str
    language: str
    split: str | None = None  # as published; None where the corpus has none


@dataclass
class Listing:
    """What a corpus's folder holds: sounds in the order of their names, and all that is left out, counted."""

    sounds: list[Sound] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)  # names that cannot be listed further, with reasons
    left_out: int = 0  # sounds that the layout or `subsets` leave out
    other_files: int = 0


@dataclass(frozen=True)
class Layout:
    """A tree of sound files whose paths, from any folder above on, look like `pattern`.

    Its groups are `speaker`, `language`, `split` and `subset`; what `subsets` may name is the last.
    """

    pattern: str
    example: str
    language: str = UNKNOWN
    splits: tuple[tuple[str, str], ...] = ()  # beginning of the published split's name, and ours
    default_subsets: tuple[str, ...] | None = None  # None: all

    def match(self, name: str) -> dict[str, str | None] | None:
        """Return the pattern's groups in a file's name; None where it does not fit."""
        found = re.fullmatch(rf"(?:.*/)?{self.pattern}", name)
        return None if found is None else found.groupdict()

    def sound(self, name: str, source: Path, groups: dict[str, str | None]) -> Sound:
        """Return a file with its labels."""
        published = groups.get("split") or groups.get("subset") or ""
        split = next((ours for theirs, ours in self.splits if published.startswith(theirs)), None)
        speaker, language = groups.get("speaker") or UNKNOWN, groups.get("language") or self.language
        return Sound(name, source, speaker, language, split)


_PUBLISHED = (("train", "train"), ("dev", "valid"), ("test", "test"))
TREES = {
    # Koizumi et al. 2023 (arXiv:2305.18802); as LibriTTS.
    "libritts_r": Layout(
        r"(?P<subset>(?:train|dev|test)-(?:clean|other)(?:-\d+)?)/(?P<speaker>\d+)/\d+/[^/]+\.wav",
        "train-clean-100/103/1241/103_1241_000000_000001.wav",
        language="en",
        splits=_PUBLISHED,
    ),
    # Takamichi et al. 2019 (arXiv:1908.06248). Whispered and falsetto speech, ten sentences each a speaker, is left
    # out unless asked for.
    "jvs": Layout(
        r"(?P<speaker>jvs\d{3})/(?P<subset>parallel100|nonpara30|whisper10|falset10)/wav24kHz16bit/[^/]+\.wav",
        "jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav",
        language="ja",
        default_subsets=("parallel100", "nonpara30"),
    ),
    # Ma et al. 2024 (arXiv:2408.06227), its archives unpacked where they lie; it names no speakers.
    "fleurs_r": Layout(
        r"(?P<subset>(?P<language>[a-z]{2,3}(?:_[a-z0-9]+)+))/(?:audio/)?(?P<split>train|dev|test)/[^/]+\.wav",
        "ja_jp/audio/train/1004.wav",
        splits=_PUBLISHED,
    ),
    # Yamagishi et al. 2019 (version 0.92, two microphones, FLAC) and earlier ones (WAV, one microphone).
    "vctk": Layout(
        r"(?:wav48_silence_trimmed|wav48)/(?P<speaker>[ps]\d+)/[^/]+?(?:_(?P<subset>mic[12])\.flac|\.wav)",
        "wav48_silence_trimmed/p225/p225_001_mic1.flac",
        language="en",
        default_subsets=("mic1",),
    ),
}
LAYOUTS = ("folder", *TREES, "webdataset")


def list_sounds(folder: Path, layout: str, subsets: Collection[str] | None = None) -> Listing:
    """Return the sounds of a corpus, hidden files aside.

    Args:
        layout: one of `LAYOUTS`.
        subsets: which parts of the corpus to take: splits of LibriTTS-R, languages of FLEURS-R, kinds of JVS,
            microphones of VCTK. None takes the layout's own choice.

    Raises:
        FileNotFoundError: the folder is missing, or is a file.
        ValueError: the layout is unknown, nothing is laid out so, or a subset is not there.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise FileNotFoundError(f"{folder}: {what}; it should be a folder of sound files")
    if layout not in LAYOUTS:
        raise ValueError(f"layout '{layout}' is not known; it should be one of {', '.join(LAYOUTS)}")
    if subsets is not None and layout not in TREES:
        raise ValueError(f"{folder}: the layout {layout} has no subsets; leave {', '.join(subsets)} out")
    if layout == "webdataset":
        return _list_shards(folder)
    listing = Listing()
    names = []
    for name in (path.relative_to(folder).as_posix() for path in find_files(folder)):
        if PurePosixPath(name).suffix.lower() in SOUND_SUFFIXES:
            names.append(name)
        else:
            listing.other_files += 1
    if layout == "folder":
        listing.sounds = [Sound(name, folder / name, *_by_folders(name)) for name in sorted(names)]
    else:
        _fill(listing, folder, TREES[layout], sorted(names), layout, subsets)
    return listing


def _fill(
    listing: Listing, folder: Path, layout: Layout, names: list[str], title: str, subsets: Collection[str] | None
) -> None:
    chosen = layout.default_subsets if subsets is None else tuple(subsets)
    fitting = [(name, groups) for name in names if (groups := layout.match(name)) is not None]
    seen = {groups.get("subset") for _, groups in fitting}
    for name, groups in fitting:
        # Without a subset in its name (the first VCTK), a file belongs to every one.
        if chosen is None or groups.get("subset") in (None, *chosen):
            listing.sounds.append(layout.sound(name, folder / name, groups))
    listing.left_out = len(names) - len(listing.sounds)
    if not fitting:
        raise ValueError(f"{folder}: holds no file laid out as {title}; there should be some like {layout.example}")
    if subsets is not None and None not in seen and (missing := sorted({*subsets} - seen)):
        raise ValueError(f"{folder}: holds nothing of the subset {', '.join(missing)} of {title}")


def _list_shards(folder: Path) -> Listing:
    """List the sounds of tar shards; speaker and language come from a sample's JSON, or from folders in its name."""
    listing = Listing()
    shards = find_shards(folder)
    if not shards:
        raise ValueError(f"{folder}: holds no tar shard; there should be some like train-000000.tar")
    for shard in shards:
        samples, others, fault = read_index(shard, SOUND_SUFFIXES)
        within = shard.relative_to(folder).as_posix()
        listing.other_files += others
        if fault is not None:
            listing.broken.append((within, fault))
        for sample in samples:
            by_speaker, by_language = _by_folders(sample.sound.member)
            speaker = next((str(sample.about[key]) for key in ("speaker", "speaker_id") if key in sample.about), None)
            language = next((str(sample.about[key]) for key in ("language", "lang") if key in sample.about), None)
            name = f"{within}:{sample.sound.member}"
            listing.sounds.append(Sound(name, sample.sound, speaker or by_speaker, language or by_language))
    return listing


def _by_folders(name: str) -> tuple[str, str]:
    """Return speaker and language: all folders together, and the first."""
    parents = [part for part in PurePosixPath(name).parts[:-1] if part not in (".", "/")]
    return "/".join(parents) or UNKNOWN, parents[0] if parents else UNKNOWN
