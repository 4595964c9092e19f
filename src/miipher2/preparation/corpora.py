"""Corpora as a user names them, gathered into rows of a manifest: listed, measured, freed of duplicates, split."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miipher2.audio.io import FileSection
from miipher2.data.manifest import SPLITS, Utterance, relative
from miipher2.preparation.layouts import list_sounds
from miipher2.preparation.scan import Found, Survey, survey
from miipher2.preparation.splits import split_files

BAD_FILE_CHOICES = ("error", "skip")


@dataclass(frozen=True)
class Corpus:
    """A folder in a known layout, the parts of it to take, and its share of a mixture."""

    folder: Path
    layout: str = "folder"
    subsets: tuple[str, ...] | None = None
    weight: float = 1.0


def corpora_of(config: Any, root: Path) -> dict[str, Corpus]:
    """Return what a `data` configuration names: its `source` in its `layout`, or its `corpora` below `source`."""
    if not config.corpora:
        return {config.layout: Corpus(root / config.source, config.layout, _tuple(config.subsets))}
    return {
        str(name): Corpus(root / config.source / each.folder, each.layout, _tuple(each.subsets), each.weight)
        for name, each in config.corpora.items()
    }


@dataclass
class Gathered:
    """The usable utterances of all corpora, and what was found on the way."""

    rows: list[Utterance] = field(default_factory=list)
    surveys: dict[str, Survey] = field(default_factory=dict)
    used: dict[str, list[Found]] = field(default_factory=dict)  # without duplicates
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # a name, and the first of the same content


def gather(
    corpora: Mapping[str, Corpus],
    root: Path,
    *,
    held_out: Path | None = None,
    as_published: bool = True,
    by_speaker_from: int = 40,
    on_bad_file: str = "error",
) -> Gathered:
    """Decode every file of every corpus once.

    Args:
        held_out: a list of the files of the test split, of a corpus that is alone.
        on_bad_file: `error` stops after all files were seen, and lists the bad ones; `skip` leaves them out.

    Raises:
        FileNotFoundError: a folder or the list is missing.
        ValueError: a folder holds nothing that can be used, or nothing for a split, or bad files with `error`.
    """
    if held_out is not None and len(corpora) > 1:
        raise ValueError(f"held_out={held_out}: names the files of one corpus, and there are {len(corpora)}")
    gathered = Gathered()
    for name, corpus in corpora.items():
        gathered.surveys[name] = usable(survey_corpus(corpus), "speech")
    refuse_bad_files(gathered.surveys.values(), on_bad_file)
    first: dict[str, str] = {}
    for name, seen in gathered.surveys.items():
        gathered.used[name], duplicates = without_duplicates(seen, first, root)
        gathered.duplicates += duplicates
        digests = None if held_out is None else _held_out_digests(held_out, seen)
        splits = split_files(
            gathered.used[name], held_out=digests, as_published=as_published, by_speaker_from=by_speaker_from
        )
        _check_splits(name, seen, splits)
        gathered.rows += utterances(gathered.used[name], splits, root, name)
    return gathered


def survey_corpus(corpus: Corpus) -> Survey:
    """List and measure the sounds of one corpus."""
    return survey(corpus.folder, list_sounds(corpus.folder, corpus.layout, corpus.subsets))


def utterances(files: Collection[Found], splits: Mapping[str, str], root: Path, corpus: str) -> list[Utterance]:
    """Return surveyed files as rows of a manifest."""
    rows = []
    for file in files:
        source = file.sound.source
        path, place = (source, dict[str, Any]()) if isinstance(source, Path) else (source.path, _place(source))
        rows.append(
            Utterance(
                path=relative(path, root),
                speaker=file.sound.speaker,
                language=file.sound.language,
                seconds=file.info.seconds,
                sample_rate_hz=file.info.sample_rate_hz,
                level_db=file.level_db,
                peak=file.peak,
                sha256=file.sha256,
                split=splits[file.sha256],
                corpus=corpus,
                **place,
            )
        )
    return rows


def usable(seen: Survey, what: str) -> Survey:
    """Return the survey if it found anything.

    Raises:
        ValueError: it found nothing; the message lists why.
    """
    if seen.found:
        return seen
    if not seen.unreadable:
        raise ValueError(f"{seen.folder}: holds no sound file; it should hold {what} as WAV, FLAC, OGG or MP3")
    reasons = "".join(f"\n  {seen.folder / name}: {reason}" for name, reason in seen.unreadable[:10])
    raise ValueError(f"{seen.folder}: none of its {len(seen.unreadable)} sound files can be read:{reasons}")


def refuse_bad_files(surveys: Collection[Survey], on_bad_file: str) -> None:
    """Stop at files that cannot be read, all of them at once, unless they are to be skipped.

    Raises:
        ValueError: there are some; names up to ten.
    """
    if on_bad_file not in BAD_FILE_CHOICES:
        raise ValueError(f"on_bad_file={on_bad_file}: should be one of {', '.join(BAD_FILE_CHOICES)}")
    bad = [(seen.folder / name, reason) for seen in surveys for name, reason in seen.unreadable]
    if bad and on_bad_file == "error":
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in bad[:10])
        more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"{len(bad)} files cannot be used; mend or remove them, or leave them out with data.on_bad_file=skip:"
            f"{reasons}{more}"
        )


def without_duplicates(seen: Survey, first: dict[str, str], root: Path) -> tuple[list[Found], list[tuple[str, str]]]:
    """Return the files whose content is new, and the names of the others beside those in `first`, which is added to."""
    new, duplicates = [], []
    for file in seen.found:
        name = relative(seen.folder / file.sound.name, root)
        if file.sha256 in first:
            duplicates.append((name, first[file.sha256]))
        else:
            first[file.sha256] = name
            new.append(file)
    return new, duplicates


def _tuple(values: Collection[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _place(section: FileSection) -> dict[str, Any]:
    return {key: getattr(section, key) for key in ("member", "offset_bytes", "size_bytes")}


def _held_out_digests(held_out: Path, speech: Survey) -> set[str]:
    """Return the content digests of the files that the list names: a copy under another name is held out too."""
    if not held_out.is_file():
        raise FileNotFoundError(f"{held_out}: no such list of held-out files; give its path, or null to split by rule")
    names = [line.strip() for line in held_out.read_text(encoding="utf-8").splitlines() if line.strip()]
    digests = {file.sound.name: file.sha256 for file in speech.found}
    if missing := [name for name in names if name not in digests]:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(f"{held_out}: names {len(missing)} files that {speech.folder} does not hold: {listed}")
    if not names:
        raise ValueError(f"{held_out}: names no file; it should name one a line, relative to {speech.folder}")
    return {digests[name] for name in names}


def _check_splits(name: str, seen: Survey, splits: Mapping[str, str]) -> None:
    if empty := [split for split in SPLITS if split not in splits.values()]:
        raise ValueError(
            f"{seen.folder}: {len(splits)} usable utterances of {name} leave nothing for {' and '.join(empty)}; there "
            "should be at least one each for train, valid and test (data.splits=rule splits by digest instead of as "
            "published)"
        )
