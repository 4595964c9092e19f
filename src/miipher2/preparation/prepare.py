"""The stage prepare_data: from folders of sound to manifest, noises, rooms and a report."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miipher2.data.manifest import Manifest
from miipher2.data.sampler import Order
from miipher2.preparation.corpora import (
    Corpus,
    gather,
    refuse_bad_files,
    survey_corpus,
    usable,
    utterances,
    without_duplicates,
)
from miipher2.preparation.noise import make_noises
from miipher2.preparation.report import pool_report, speech_report
from miipher2.preparation.rooms import adopt_rooms, make_rooms
from miipher2.preparation.scan import Survey
from miipher2.preparation.splits import split_files


def prepare(
    source: Path | Mapping[str, Corpus],
    prepared: Path,
    *,
    root: Path,
    seed: int,
    noise_folder: Path | None = None,
    rooms_folder: Path | None = None,
    noise_files: int = 24,
    rooms: int = 48,
    held_out: Path | None = None,
    as_published: bool = True,
    by_speaker_from: int = 40,
    on_bad_file: str = "error",
) -> dict[str, Any]:
    """Fill the folder `prepared` from the speech in `source`, and return its report; equal input gives equal bytes.

    It holds manifest.parquet, noise.parquet (and noise/*.flac where generated), rooms.parquet and rooms/*.wav, each
    manifest also as .arrow, weights.json and report.json. It is built aside and renamed: whole, or as it was before.

    Args:
        source: a folder of speech, sound files at any depth, of any rate and number of channels; or corpora by name.
        root: the repository's root, which the manifests' paths are relative to.
        noise_folder: the user's noises, used where they lie; None generates `noise_files` of them.
        rooms_folder: the user's room responses, copied at 16 kHz; None simulates `rooms` of them.
        held_out: a list of the files of the test split, one path relative to `source` a line; None splits by rule.
        as_published: whether to keep to the splits that a corpus was published with.
        by_speaker_from: how many speakers a corpus must have for each to be in one split only.
        on_bad_file: whether files that cannot be read are an `error`, or left out (`skip`).

    Raises:
        FileNotFoundError: a folder or the held-out list is missing.
        ValueError: a folder holds nothing that can be used, or a bad file, or the held-out list names a file that is
            not there.
    """
    corpora = {"folder": Corpus(source)} if isinstance(source, Path) else dict(source)
    pools = {
        "noises": None if noise_folder is None else usable(survey_corpus(Corpus(noise_folder)), "noise"),
        "rooms": None if rooms_folder is None else usable(survey_corpus(Corpus(rooms_folder)), "room responses"),
    }
    refuse_bad_files([seen for seen in pools.values() if seen is not None], on_bad_file)
    speech = gather(
        corpora,
        root,
        held_out=held_out,
        as_published=as_published,
        by_speaker_from=by_speaker_from,
        on_bad_file=on_bad_file,
    )
    manifest = Manifest.from_utterances(speech.rows)
    weights = {name: corpora[name].weight for name in corpora}
    Order(manifest.select("train"), seed, weights)  # a weight that is no good stops here and not in training
    building = prepared.with_name(f".{prepared.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        noise = _noise(building, prepared, root, pools["noises"], manifest, seed, noise_files)
        room = _rooms(building, prepared, root, pools["rooms"], seed, rooms)
        report = {
            **speech_report(corpora, speech, manifest, root),
            "noise": pool_report(noise, pools["noises"], root),
            "rooms": pool_report(room, pools["rooms"], root),
        }
        for name, pool in (("manifest", manifest), ("noise", noise), ("rooms", room)):
            pool.write(building / f"{name}.parquet")
        for name, values in (("weights", weights), ("report", report)):
            text = json.dumps(values, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
            (building / f"{name}.json").write_text(text, encoding="utf-8")
        _replace(building, prepared)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return report


def _noise(
    building: Path, prepared: Path, root: Path, seen: Survey | None, speech: Manifest, seed: int, files: int
) -> Manifest:
    if seen is None:
        final = prepared / "noise"
        return make_noises(building / "noise", final, root, speech=speech, seed=seed, files=files)
    audible = [file for file in without_duplicates(seen, {}, root)[0] if not file.is_silent]
    splits = split_files(audible, by_speaker_from=len(audible) + 1)  # file by file: a folder of noises is no speaker
    return Manifest.from_utterances(utterances(audible, splits, root, "noise"))


def _rooms(building: Path, prepared: Path, root: Path, seen: Survey | None, seed: int, rooms: int) -> Manifest:
    if seen is None:
        return make_rooms(building / "rooms", prepared / "rooms", root, seed=seed, rooms=rooms)
    files, _ = without_duplicates(seen, {}, root)
    splits = split_files(files, by_speaker_from=len(files) + 1)
    chosen = [splits[file.sha256] for file in files]
    return adopt_rooms(building / "rooms", prepared / "rooms", root, files=files, splits=chosen)


def _replace(building: Path, prepared: Path) -> None:
    """Put the finished folder in the place of `prepared`."""
    earlier = prepared.with_name(f".{prepared.name}.earlier.tmp")
    shutil.rmtree(earlier, ignore_errors=True)
    if prepared.exists():
        prepared.rename(earlier)
    building.rename(prepared)
    shutil.rmtree(earlier, ignore_errors=True)
