"""The report of prepare_data: what the corpora hold, and what is odd about it, for people and for DVC to compare."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from miipher2.data.manifest import SPLITS, Manifest, relative
from miipher2.preparation.corpora import Corpus, Gathered
from miipher2.preparation.scan import Survey

LONGEST_LIST = 1000  # names; all are counted


def speech_report(corpora: Mapping[str, Corpus], gathered: Gathered, manifest: Manifest, root: Path) -> dict[str, Any]:
    """Return hours, speakers, languages and rates, and what is clipped, silent, unreadable or there twice."""
    found = [(seen, file) for seen in gathered.surveys.values() for file in seen.found]
    splits = _groups(manifest, "split")

    def named(flag: str) -> list[str]:
        return [relative(seen.folder / file.sound.name, root) for seen, file in found if getattr(file, flag)]

    unreadable = [each for seen in gathered.surveys.values() for each in unreadable_files(seen, root)]
    return {
        "source": _source(corpora, root),
        "utterances": len(manifest),
        "hours": _hours(sum(manifest.column("seconds").to_pylist())),
        "splits": {split: splits[split] for split in SPLITS},
        **({"corpora": _groups(manifest, "corpus")} if len(corpora) > 1 else {}),
        "speakers": _groups(manifest, "speaker"),
        "languages": _groups(manifest, "language"),
        "sample_rates_hz": _counts(file.info.sample_rate_hz for _, file in found),
        "channels": _counts(file.info.channels for _, file in found),
        **_listed("clipped", named("is_clipped")),
        **_listed("silent", named("is_silent")),
        **_listed("duplicates", [{"path": path, "same_as": first} for path, first in gathered.duplicates]),
        **_listed("unreadable", unreadable),
        "left_out": sum(seen.left_out for seen in gathered.surveys.values()),
        "other_files": sum(seen.other_files for seen in gathered.surveys.values()),
        "manifest_digest": manifest.digest,
    }


def pool_report(pool: Manifest, seen: Survey | None, root: Path) -> dict[str, Any]:
    """Return what a pool of noises or rooms holds; `seen` is None where it was generated."""
    report: dict[str, Any] = {
        "files": len(pool),
        "seconds": round(sum(pool.column("seconds").to_pylist()), 3),
        "manifest_digest": pool.digest,
    }
    if seen is None:
        return {"made": "generated", **report}
    silent = [relative(seen.folder / file.sound.name, root) for file in seen.found if file.is_silent]
    where = relative(seen.folder, root)
    return {
        "made": "given",
        "folder": where,
        **report,
        **_listed("silent", silent),
        **_listed("unreadable", unreadable_files(seen, root)),
    }


def unreadable_files(seen: Survey, root: Path) -> list[dict[str, str]]:
    """Return the names of a survey's unreadable files, with reasons."""
    return [{"path": relative(seen.folder / name, root), "reason": reason} for name, reason in seen.unreadable]


def _source(corpora: Mapping[str, Corpus], root: Path) -> Any:
    folders = {name: relative(corpus.folder, root) for name, corpus in corpora.items()}
    return folders if len(folders) > 1 else next(iter(folders.values()))


def _listed(name: str, items: list[Any]) -> dict[str, Any]:
    return {name: items[:LONGEST_LIST], f"{name}_count": len(items)}


def _groups(manifest: Manifest, column: str) -> dict[str, dict[str, Any]]:
    """Return utterances and hours by the values of a column, in the order of the values."""
    utterances: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for value, length in zip(manifest.column(column).to_pylist(), manifest.column("seconds").to_pylist(), strict=True):
        utterances[value] += 1
        seconds[value] += length
    return {value: {"utterances": utterances[value], "hours": _hours(seconds[value])} for value in sorted(utterances)}


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 4)


def _counts(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}
