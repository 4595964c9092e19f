"""The stage prepare_data: manifests, noises, rooms, and a report for people to read and for DVC to compare."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from miipher2.atomic_io import move
from miipher2.config.schema_data import SAMPLE_RATE_HZ, PrepareDataConfig
from miipher2.data.manifest import SPLITS, Manifest, relative_path
from miipher2.data.sampler import UtteranceSampler
from miipher2.preparation.corpora import (
    Corpus,
    CorpusIndex,
    check_bad_files,
    corpora_of,
    drop_duplicates,
    index_corpora,
    scan_corpus,
    utterances,
)
from miipher2.preparation.noise import make_noises
from miipher2.preparation.pairs import PairIndex, count_reasons, describe, index_pairs
from miipher2.preparation.rooms import import_rooms, simulate_rooms
from miipher2.preparation.scan import Scan
from miipher2.preparation.splits import split_files

log = logging.getLogger(__name__)

MAX_LISTED = 1000  # names in the report; all are counted


def prepare(config: PrepareDataConfig, root: Path) -> dict[str, Any]:
    """Fill the folder `config.prepared` and return its report; equal input gives equal bytes.

    It holds manifest.parquet, noise.parquet (and noise/*.flac if generated), rooms.parquet and rooms/*.wav, each
    manifest also as .arrow, weights.json and report.json; of recorded pairs also refused.txt, a line for each that is
    left out. It is built aside and renamed: complete, or as before.

    Args:
        root: the repository's root, which paths in configuration and manifests are relative to.

    Raises:
        FileNotFoundError: a folder or the held-out list is missing.
        ValueError: a folder holds no usable file or no usable pair, a file is bad, the held-out list names a missing
            file, or the folder `config.prepared` is not prepared data and would be lost.
    """
    config.check_prepared(root)
    corpora, prepared = corpora_of(config, root), root / config.prepared
    noise_scan = _scan_pool(config.noise_folder, root, "noise")
    room_scan = _scan_pool(config.rooms_folder, root, "room responses")
    check_bad_files([scanned for scanned in (noise_scan, room_scan) if scanned is not None], config.on_bad_file)
    index = _index(config, corpora, root)
    speech = Manifest.from_utterances(index.rows)
    weights = {name: corpus.weight for name, corpus in corpora.items()}
    UtteranceSampler(speech.select("train"), config.seed, weights)  # a bad weight stops here and not in training
    building = prepared.with_name(f".{prepared.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        noises = _prepare_noises(building, prepared, root, noise_scan, speech, config)
        rooms = _prepare_rooms(building, prepared, root, room_scan, config)
        report = {
            **_speech_report(corpora, index, speech, root),
            "noise": _pool_report(noises, noise_scan, root),
            "rooms": _pool_report(rooms, room_scan, root),
        }
        for name, manifest in (("manifest", speech), ("noise", noises), ("rooms", rooms)):
            manifest.write(building / f"{name}.parquet")
        for name, values in (("weights", weights), ("report", report)):
            text = json.dumps(values, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
            (building / f"{name}.json").write_text(text, encoding="utf-8")
        if isinstance(index, PairIndex):
            lines = "".join(f"{refusal.line}\n" for refusal in index.refusals)
            (building / "refused.txt").write_text(lines, encoding="utf-8")
        _replace_folder(building, prepared)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if isinstance(index, PairIndex) and index.refusals:
        log.warning("Pairs left out: %s\nAll of them: %s", describe(index.refusals), prepared / "refused.txt")
    return report


def _index(config: PrepareDataConfig, corpora: Mapping[str, Corpus], root: Path) -> CorpusIndex:
    settings: dict[str, Any] = {
        "held_out": None if config.held_out is None else root / config.held_out,
        "as_published": config.splits == "published",
        "by_speaker_from": config.by_speaker_from,
        "on_bad_file": config.on_bad_file,
    }
    if config.pairs is None:
        return index_corpora(corpora, root, **settings)
    ((name, corpus),) = corpora.items()
    degraded = root / config.source / config.pairs.degraded
    return index_pairs(name, corpus, degraded, config.pairs, root, **settings)


def _scan_pool(folder: str | None, root: Path, content: str) -> Scan | None:
    return None if folder is None else scan_corpus(Corpus(root / folder), content)


def _prepare_noises(
    building: Path, prepared: Path, root: Path, scanned: Scan | None, speech: Manifest, config: PrepareDataConfig
) -> Manifest:
    if scanned is None:
        final = prepared / "noise"
        return make_noises(building / "noise", final, root, speech=speech, seed=config.seed, files=config.noise_files)
    audible = [file for file in drop_duplicates(scanned, {}, root)[0] if not file.is_silent]
    splits = split_files(audible, by_speaker_from=len(audible) + 1)  # by file: a folder of noises is not a speaker
    return Manifest.from_utterances(utterances(audible, splits, root, "noise"))


def _prepare_rooms(
    building: Path, prepared: Path, root: Path, scanned: Scan | None, config: PrepareDataConfig
) -> Manifest:
    folder, final = building / "rooms", prepared / "rooms"
    if scanned is None:
        return simulate_rooms(folder, final, root, seed=config.seed, rooms=config.rooms)
    files, _ = drop_duplicates(scanned, {}, root)
    splits = split_files(files, by_speaker_from=len(files) + 1)
    return import_rooms(folder, final, root, files=files, splits=[splits[file.sha256] for file in files])


def _replace_folder(building: Path, prepared: Path) -> None:
    earlier = prepared.with_name(f".{prepared.name}.earlier.tmp")
    shutil.rmtree(earlier, ignore_errors=True)
    if prepared.exists():
        move(prepared, earlier)
    building.rename(prepared)
    shutil.rmtree(earlier, ignore_errors=True)


def _speech_report(corpora: Mapping[str, Corpus], index: CorpusIndex, speech: Manifest, root: Path) -> dict[str, Any]:
    """Return hours, speakers, languages and rates, and the clipped, silent, unreadable and duplicate files."""
    files = [(scanned, file) for scanned in index.scans.values() for file in scanned.files]
    folders = {name: relative_path(corpus.folder, root) for name, corpus in corpora.items()}
    splits = _group_by(speech, "split")

    def flagged(flag: str) -> list[str]:
        return [relative_path(scanned.folder / file.sound.name, root) for scanned, file in files if getattr(file, flag)]

    return {
        "source": folders if len(folders) > 1 else next(iter(folders.values())),
        "utterances": len(speech),
        "hours": _hours(sum(speech.column("seconds").to_pylist())),
        "splits": {split: splits[split] for split in SPLITS},
        **(_pairs_report(index) if isinstance(index, PairIndex) else {}),
        **({"corpora": _group_by(speech, "corpus")} if len(corpora) > 1 else {}),
        "speakers": _group_by(speech, "speaker"),
        "languages": _group_by(speech, "language"),
        "sample_rates_hz": _count(file.info.sample_rate_hz for _, file in files),
        "channels": _count(file.info.channels for _, file in files),
        **_list("clipped", flagged("is_clipped")),
        **_list("silent", flagged("is_silent")),
        **_list("duplicates", [{"path": path, "same_as": first} for path, first in index.duplicates]),
        **_list("unreadable", [each for scanned in index.scans.values() for each in _unreadable(scanned, root)]),
        "left_out": sum(scanned.left_out for scanned in index.scans.values()),
        "passed_over": _passed_over(index.scans.values()),
        "manifest_digest": speech.digest,
    }


def _pairs_report(index: PairIndex) -> dict[str, Any]:
    """Return the degraded side, the delays of the pairs, and how many are inverted or were refused."""
    delays_ms = [1000 * alignment.delay_samples / SAMPLE_RATE_HZ for alignment in index.alignments]
    least, median, most = np.quantile(delays_ms, [0.0, 0.5, 1.0]).round(3).tolist()
    return {
        "delay_ms": {"least": least, "median": median, "most": most},
        "inverted": sum(alignment.correlation < 0 for alignment in index.alignments),
        "refused": count_reasons(index.refusals),
    }


def _pool_report(pool: Manifest, scanned: Scan | None, root: Path) -> dict[str, Any]:
    """Return the content of a pool of noises or rooms; `scanned` is None for generated ones."""
    report: dict[str, Any] = {
        "files": len(pool),
        "seconds": round(sum(pool.column("seconds").to_pylist()), 3),
        "manifest_digest": pool.digest,
    }
    if scanned is None:
        return {"made": "generated", **report}
    silent = [relative_path(scanned.folder / file.sound.name, root) for file in scanned.files if file.is_silent]
    return {
        "made": "given",
        "folder": relative_path(scanned.folder, root),
        **report,
        **_list("silent", silent),
        **_list("unreadable", _unreadable(scanned, root)),
        "passed_over": _passed_over([scanned]),
    }


def _unreadable(scanned: Scan, root: Path) -> list[dict[str, str]]:
    return [
        {"path": relative_path(scanned.folder / name, root), "reason": reason} for name, reason in scanned.unreadable
    ]


def _passed_over(scans: Iterable[Scan]) -> dict[str, int]:
    return dict(sorted(sum((scanned.passed_over for scanned in scans), Counter()).items()))


def _list(name: str, items: list[Any]) -> dict[str, Any]:
    return {name: items[:MAX_LISTED], f"{name}_count": len(items)}


def _group_by(manifest: Manifest, column: str) -> dict[str, dict[str, Any]]:
    """Return utterances and hours by the values of a column, sorted."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for value, length in zip(manifest.column(column).to_pylist(), manifest.column("seconds").to_pylist(), strict=True):
        counts[value] += 1
        seconds[value] += length
    return {value: {"utterances": counts[value], "hours": _hours(seconds[value])} for value in sorted(counts)}


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 4)


def _count(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}
