"""The stage prepare_data: from folders of sound to manifest, noises, rooms and a report."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from miipher2.data.manifest import SPLITS, Manifest, Utterance, relative
from miipher2.data.noise import make_noises
from miipher2.data.rooms import adopt_rooms, make_rooms
from miipher2.data.survey import Found, Survey, survey


def prepare(
    source: Path,
    prepared: Path,
    *,
    root: Path,
    seed: int,
    noise_folder: Path | None = None,
    rooms_folder: Path | None = None,
    noise_files: int = 24,
    rooms: int = 48,
    held_out: Path | None = None,
) -> dict[str, Any]:
    """Fill the folder `prepared` from the speech in `source`, and return its report; equal input gives equal bytes.

    It holds manifest.parquet, noise.parquet (and noise/*.flac where generated), rooms.parquet and rooms/*.wav, and
    report.json. It is built aside and renamed: whole, or as it was before.

    Args:
        source: a folder of speech; sound files at any depth, of any rate and number of channels.
        root: the repository's root, which the manifests' paths are relative to.
        noise_folder: the user's noises, used where they lie; None generates `noise_files` of them.
        rooms_folder: the user's room responses, copied at 16 kHz; None simulates `rooms` of them.
        held_out: a list of the files of the test split, one path relative to `source` a line; None splits by rule.

    Raises:
        FileNotFoundError: a folder or the held-out list is missing.
        ValueError: a folder holds nothing that can be used, or the held-out list names a file that is not there.
    """
    speech = _usable(survey(source), "speech")
    files, duplicates = _without_duplicates(speech.found)
    test_digests = None if held_out is None else _held_out_digests(held_out, speech)
    manifest = Manifest.of_files(files, source, root, test_digests)
    _check_splits(manifest, source)
    building = prepared.with_name(f".{prepared.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        noise, noise_survey = _noise(building, prepared, root, noise_folder, manifest, seed, noise_files)
        room, room_survey = _rooms(building, prepared, root, rooms_folder, seed, rooms)
        report = {
            "source": relative(source, root),
            **_speech_report(speech, manifest, duplicates, root),
            "noise": _pool_report(noise, noise_survey, root),
            "rooms": _pool_report(room, room_survey, root),
        }
        manifest.write(building / "manifest.parquet")
        noise.write(building / "noise.parquet")
        room.write(building / "rooms.parquet")
        text = json.dumps(report, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
        (building / "report.json").write_text(text, encoding="utf-8")
        _replace(building, prepared)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return report


def _usable(seen: Survey, what: str) -> Survey:
    """Return the survey if it found anything.

    Raises:
        ValueError: it found nothing; the message lists why.
    """
    if seen.found:
        return seen
    if not seen.unreadable:
        raise ValueError(f"{seen.folder}: holds no sound file; it should hold {what} as WAV, FLAC, OGG or MP3")
    reasons = "".join(f"\n  {path}: {reason}" for path, reason in seen.unreadable[:10])
    raise ValueError(f"{seen.folder}: none of its {len(seen.unreadable)} sound files can be read:{reasons}")


def _without_duplicates(files: Iterable[Found]) -> tuple[list[Found], list[tuple[Found, Found]]]:
    """Return the first file of each content, and each later one beside the first."""
    first: dict[str, Found] = {}
    duplicates = []
    for file in files:
        if file.sha256 in first:
            duplicates.append((file, first[file.sha256]))
        else:
            first[file.sha256] = file
    return list(first.values()), duplicates


def _held_out_digests(held_out: Path, speech: Survey) -> set[str]:
    """Return the content digests of the files that the list names: a copy under another name is held out too."""
    if not held_out.is_file():
        raise FileNotFoundError(f"{held_out}: no such list of held-out files; give its path, or null to split by rule")
    names = [line.strip() for line in held_out.read_text(encoding="utf-8").splitlines() if line.strip()]
    digests = {file.path.relative_to(speech.folder).as_posix(): file.sha256 for file in speech.found}
    if missing := [name for name in names if name not in digests]:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(f"{held_out}: names {len(missing)} files that {speech.folder} does not hold: {listed}")
    if not names:
        raise ValueError(f"{held_out}: names no file; it should name one a line, relative to {speech.folder}")
    return {digests[name] for name in names}


def _check_splits(manifest: Manifest, source: Path) -> None:
    if empty := [split for split in SPLITS if not len(manifest.select(split))]:
        raise ValueError(
            f"{source}: {len(manifest)} usable utterances leave nothing for {' and '.join(empty)}; "
            "there should be at least one each for train, valid and test"
        )


def _noise(
    building: Path, prepared: Path, root: Path, folder: Path | None, speech: Manifest, seed: int, files: int
) -> tuple[Manifest, Survey | None]:
    if folder is None:
        final = prepared / "noise"
        return make_noises(building / "noise", final, root, speech=speech, seed=seed, files=files), None
    seen = _usable(survey(folder), "noise")
    audible = [file for file in seen.found if not file.is_silent]
    return Manifest.of_files(_without_duplicates(audible)[0], folder, root), seen


def _rooms(
    building: Path, prepared: Path, root: Path, folder: Path | None, seed: int, rooms: int
) -> tuple[Manifest, Survey | None]:
    if folder is None:
        return make_rooms(building / "rooms", prepared / "rooms", root, seed=seed, rooms=rooms), None
    seen = _usable(survey(folder), "room responses")
    files, _ = _without_duplicates(seen.found)
    by_rule = Manifest.of_files(files, folder, root)
    splits = {by_rule.row(index).sha256: by_rule.row(index).split for index in range(len(by_rule))}
    chosen = [splits[file.sha256] for file in files]
    return adopt_rooms(building / "rooms", prepared / "rooms", root, files=files, splits=chosen), seen


def _speech_report(
    speech: Survey, manifest: Manifest, duplicates: list[tuple[Found, Found]], root: Path
) -> dict[str, Any]:
    rows = [manifest.row(index) for index in range(len(manifest))]

    def where(file: Found) -> str:
        return relative(file.path, root)

    return {
        "utterances": len(rows),
        "hours": _hours(rows),
        "splits": {split: _group([row for row in rows if row.split == split]) for split in SPLITS},
        "speakers": _groups(rows, lambda row: row.speaker),
        "languages": _groups(rows, lambda row: row.language),
        "sample_rates_hz": _counts(file.info.sample_rate_hz for file in speech.found),
        "channels": _counts(file.info.channels for file in speech.found),
        "clipped": [where(file) for file in speech.found if file.is_clipped],
        "silent": [where(file) for file in speech.found if file.is_silent],
        "duplicates": [{"path": where(file), "same_as": where(first)} for file, first in duplicates],
        "unreadable": _unreadable(speech, root),
        "unreadable_count": len(speech.unreadable),
        "other_files": speech.other_files,
        "manifest_digest": manifest.digest,
    }


def _pool_report(pool: Manifest, seen: Survey | None, root: Path) -> dict[str, Any]:
    report: dict[str, Any] = {
        "files": len(pool),
        "seconds": round(sum(pool.row(index).seconds for index in range(len(pool))), 3),
        "manifest_digest": pool.digest,
    }
    if seen is None:
        return {"made": "generated", **report}
    silent = [relative(file.path, root) for file in seen.found if file.is_silent]
    where = relative(seen.folder, root)
    return {"made": "given", "folder": where, **report, "silent": silent, "unreadable": _unreadable(seen, root)}


def _unreadable(seen: Survey, root: Path) -> list[dict[str, str]]:
    return [{"path": relative(path, root), "reason": reason} for path, reason in seen.unreadable]


def _groups(rows: list[Utterance], key: Callable[[Utterance], str]) -> dict[str, dict[str, Any]]:
    return {name: _group([row for row in rows if key(row) == name]) for name in sorted({key(row) for row in rows})}


def _group(rows: list[Utterance]) -> dict[str, Any]:
    return {"utterances": len(rows), "hours": _hours(rows)}


def _hours(rows: list[Utterance]) -> float:
    return round(sum(row.seconds for row in rows) / 3600, 4)


def _counts(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _replace(building: Path, prepared: Path) -> None:
    """Put the finished folder in the place of `prepared`."""
    earlier = prepared.with_name(f".{prepared.name}.earlier.tmp")
    shutil.rmtree(earlier, ignore_errors=True)
    if prepared.exists():
        prepared.rename(earlier)
    building.rename(prepared)
    shutil.rmtree(earlier, ignore_errors=True)
