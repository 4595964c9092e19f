"""The utterances of all corpora: listed, scanned, freed of duplicates and split, as rows of a manifest."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miipher2.audio.decode import FileSection
from miipher2.config.schema_data import PrepareDataConfig
from miipher2.data.manifest import SPLITS, Utterance, relative_path
from miipher2.preparation.layouts import list_sounds
from miipher2.preparation.scan import Scan, ScannedFile, scan
from miipher2.preparation.splits import split_files


@dataclass(frozen=True)
class Corpus:
    """A folder and its layout, the subsets to take, and its share of a mixture."""

    folder: Path
    layout: str = "folder"
    subsets: tuple[str, ...] | None = None
    weight: float = 1.0


@dataclass
class CorpusIndex:
    """The usable utterances of all corpora, with what the scans found."""

    rows: list[Utterance] = field(default_factory=list)
    scans: dict[str, Scan] = field(default_factory=dict)
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # a name, and the first file of the same content


def corpora_of(config: PrepareDataConfig, root: Path) -> dict[str, Corpus]:
    """Return the corpora of a configuration: its `source` in its `layout`, or its `corpora` below `source`.

    Of recorded pairs it is the clean side.
    """
    if not config.corpora:
        folder = root / config.source / ("" if config.pairs is None else config.pairs.clean)
        return {config.layout: Corpus(folder, config.layout, _as_tuple(config.subsets))}
    return {
        name: Corpus(root / config.source / each.folder, each.layout, _as_tuple(each.subsets), each.weight)
        for name, each in config.corpora.items()
    }


def index_corpora(
    corpora: Mapping[str, Corpus],
    root: Path,
    *,
    held_out: Path | None = None,
    as_published: bool = True,
    by_speaker_from: int = 40,
    on_bad_file: str = "error",
) -> CorpusIndex:
    """Scan every file of every corpus once, and split the usable ones.

    Args:
        held_out: a list of the files of the test split, of a single corpus.
        on_bad_file: `error` stops after all files were scanned and lists the bad ones; `skip` leaves them out.

    Raises:
        FileNotFoundError: a folder or the list is missing.
        ValueError: a corpus has no usable file, leaves a split empty, or has bad files with `error`.
    """
    if held_out is not None and len(corpora) > 1:
        raise ValueError(f"held_out={held_out}: lists the files of one corpus; there are {len(corpora)}")
    index = CorpusIndex()
    for name, corpus in corpora.items():
        index.scans[name] = scan_corpus(corpus, "speech")
    check_bad_files(index.scans.values(), on_bad_file)
    first_names: dict[str, str] = {}
    for name, scanned in index.scans.items():
        files, duplicates = drop_duplicates(scanned, first_names, root)
        index.duplicates += duplicates
        splits = split_corpus(
            name, scanned, files, held_out=held_out, as_published=as_published, by_speaker_from=by_speaker_from
        )
        index.rows += utterances(files, splits, root, name)
    return index


def split_corpus(
    name: str,
    scanned: Scan,
    files: Collection[ScannedFile],
    *,
    held_out: Path | None,
    as_published: bool,
    by_speaker_from: int,
) -> dict[str, str]:
    """Return the split of the usable files of one corpus, by their content digests.

    Raises:
        FileNotFoundError: the list of held-out files is missing.
        ValueError: a split is empty, or the list is, or names a file that is not there.
    """
    digests = None if held_out is None else _held_out_digests(held_out, scanned)
    splits = split_files(files, held_out=digests, as_published=as_published, by_speaker_from=by_speaker_from)
    if empty := [split for split in SPLITS if split not in splits.values()]:
        raise ValueError(
            f"{scanned.folder}: {len(splits)} usable utterances of {name} leave nothing for {' and '.join(empty)}; "
            "there should be at least one each for train, valid and test (data.splits=rule splits by digest "
            "instead of as published)"
        )
    return splits


def scan_corpus(corpus: Corpus, content: str) -> Scan:
    """List and scan the sounds of one corpus.

    Args:
        content: what it should hold, for the error message.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: no file can be used; lists why.
    """
    scanned = scan(corpus.folder, list_sounds(corpus.folder, corpus.layout, corpus.subsets))
    if not scanned.files and not scanned.unreadable:
        raise ValueError(f"{scanned.folder}: holds no sound file; it should hold {content} as WAV, FLAC, OGG or MP3")
    if not scanned.files:
        reasons = "".join(f"\n  {scanned.folder / name}: {reason}" for name, reason in scanned.unreadable[:10])
        raise ValueError(f"{scanned.folder}: none of its {len(scanned.unreadable)} sound files can be read:{reasons}")
    return scanned


def check_bad_files(scans: Collection[Scan], on_bad_file: str) -> None:
    """Stop at unreadable files, all of them at once, unless `on_bad_file` is `skip`.

    Raises:
        ValueError: there are some; names up to ten.
    """
    bad = [(scanned.folder / name, reason) for scanned in scans for name, reason in scanned.unreadable]
    if bad and on_bad_file == "error":
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in bad[:10])
        more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"{len(bad)} files cannot be used; repair or remove them, or leave them out with data.on_bad_file=skip:"
            f"{reasons}{more}"
        )


def drop_duplicates(
    scanned: Scan, first_names: dict[str, str], root: Path
) -> tuple[list[ScannedFile], list[tuple[str, str]]]:
    """Return the files of new content, and the names of the others beside the first of the same content.

    Args:
        first_names: the first file's name by content digest; new ones are added.
    """
    new, duplicates = [], []
    for file in scanned.files:
        name = relative_path(scanned.folder / file.sound.name, root)
        if file.sha256 in first_names:
            duplicates.append((name, first_names[file.sha256]))
        else:
            first_names[file.sha256] = name
            new.append(file)
    return new, duplicates


def utterances(files: Collection[ScannedFile], splits: Mapping[str, str], root: Path, corpus: str) -> list[Utterance]:
    """Return scanned files as rows of a manifest."""
    rows = []
    for file in files:
        source = file.sound.source
        section: dict[str, Any] = {}
        if isinstance(source, FileSection):
            section = {key: getattr(source, key) for key in ("member", "offset_bytes", "size_bytes")}
            source = source.path
        rows.append(
            Utterance(
                path=relative_path(source, root),
                speaker=file.sound.speaker,
                language=file.sound.language,
                seconds=file.info.seconds,
                sample_rate_hz=file.info.sample_rate_hz,
                level_db=file.level_db,
                peak=file.peak,
                sha256=file.sha256,
                split=splits[file.sha256],
                corpus=corpus,
                transcript=file.sound.transcript,
                **section,
            )
        )
    return rows


def _as_tuple(values: Collection[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _held_out_digests(held_out: Path, scanned: Scan) -> set[str]:
    """Return the content digests of the listed files, so that a copy under another name is held out too."""
    if not held_out.is_file():
        raise FileNotFoundError(f"{held_out}: no such list of held-out files; give its path, or null to split by rule")
    names = [line.strip() for line in held_out.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    digests = {file.sound.name: file.sha256 for file in scanned.files}
    if missing := [name for name in names if name not in digests]:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(f"{held_out}: lists {len(missing)} files that are not in {scanned.folder}: {listed}")
    if not names:
        raise ValueError(f"{held_out}: is empty; it should list one file a line, relative to {scanned.folder}")
    return {digests[name] for name in names}
