"""`miipher2 degrade`: recordings in, degraded recordings out, with a table of what was done to each."""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.atomic_io import write_atomically

if TYPE_CHECKING:
    from miipher2.config.schema_data import DegradationConfig
    from miipher2.data.degradations.chain import Degradation
    from miipher2.data.pools import Pools

DEGRADE = """\
Degrade a recording, or every recording below a folder, as training degrades it: for making test sets.

What happens to a recording hangs on the seed and on its content, and on no other file. A file is written at 16 kHz,
mono, as .wav or .flac; for a folder, its tree is kept, and what is neither becomes .wav. What was applied to each is in
degradations.csv beside the results. Noises, rooms and voices are those of the test split of prepared data.
A file that fails is listed at the end and does not stop the others; an output is written whole or not at all.

exit codes: 0 all degraded, 1 some failed, 2 wrong usage or input

examples:
  miipher2 degrade clean.wav noisy.wav --config miipher2
  miipher2 degrade clean/ noisy/ --config sidon --seed 7 --prepared data/prepared/libritts_r
  miipher2 degrade clean/ noisy/ --config my_degradation.yaml
"""
PREPARED = "data/prepared/embedded"
TABLE = "degradations.csv"
KEPT_SUFFIXES = (".wav", ".flac")


def add_parser(commands: Any) -> None:
    """Add `degrade` to the command line."""
    parser = commands.add_parser("degrade", help="degrade recordings, for test sets", description=DEGRADE)
    parser.add_argument("source", type=Path, metavar="IN", help="a recording, or a folder of them")
    parser.add_argument("target", type=Path, metavar="OUT", help="where the result goes; existing files are replaced")
    parser.add_argument("--config", required=True, help="a name in configs/degradation/, or a YAML file like those")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another degradation (default: 0)")
    parser.add_argument("--prepared", metavar="DIR", default=PREPARED, help=f"prepared data (default: {PREPARED})")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"), help="of its pools")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Degrade, write the table, list failures, and return the exit code."""
    jobs = find_jobs(options.source, options.target)

    from tqdm import tqdm

    from miipher2.data.degradations.chain import check_pools

    settings = read_settings(options.config)
    pools = open_pools(settings, options.prepared, options.split)
    check_pools(settings, pools)
    rows, failures = [], []
    for source, target in tqdm(jobs, unit="file", dynamic_ncols=True, disable=not sys.stderr.isatty()):
        try:
            rows.append(degrade_file(source, target, settings, pools, options.seed))
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            failures.append(text if str(source) in text or str(target) in text else f"{source}: {text}")
    folder = options.target if options.source.is_dir() or options.target.is_dir() else options.target.parent
    if rows:
        write_table(folder / TABLE, rows)
    sys.stdout.write(f"{len(rows)} of {len(jobs)} degraded to {options.target}; see {folder / TABLE}\n")
    for failure in failures:
        sys.stderr.write(f"FAILED  {failure}\n")
    return int(bool(failures))


def find_jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what is read and where it goes, in order.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is nothing to degrade, or a result would replace a recording or another result.
    """
    from miipher2.audio.files import SOUND_SUFFIXES, find_sound_files

    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.is_file():
        one = target / _name(source) if target.is_dir() else target
        if one.suffix.lower() not in KEPT_SUFFIXES:
            raise ValueError(f"{target}: should end in .wav or .flac, or be a folder that exists")
        jobs = [(source, one)]
    else:
        if target.is_file():
            raise ValueError(f"{target}: should be a folder, since {source} is one")
        jobs = [
            (path, target / path.relative_to(source).with_name(_name(path)))
            for path in find_sound_files(source, exclude=target)  # OUT inside IN: the results of an earlier run
        ]
    if not jobs:
        raise ValueError(f"{source}: holds no recordings ({', '.join(sorted(SOUND_SUFFIXES))})")
    goals: dict[Path, Path] = {}
    for path, goal in jobs:
        if goal.resolve() == path.resolve():
            raise ValueError(f"{path}: would be replaced by its degraded self; name another OUT")
        if goal in goals:
            raise ValueError(f"{goals[goal]} and {path} would both become {goal}; rename one")
        goals[goal] = path
    return jobs


def read_settings(name: str) -> "DegradationConfig":
    """Return the degradation settings of a shipped name or of a YAML file, held to the schema.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a key is unknown, or a value has the wrong type or is out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from miipher2.config.load import to_dataclass
    from miipher2.config.paths import ROOT
    from miipher2.config.schema_data import DegradationConfig

    shipped = ROOT / "configs" / "degradation"
    path = shipped / f"{name}.yaml" if (shipped / f"{name}.yaml").is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(each.stem for each in shipped.glob("*.yaml")))
        raise FileNotFoundError(f"--config {name}: no such file; should be one, or one of {names}")
    try:
        return to_dataclass(
            OmegaConf.merge(OmegaConf.structured(DegradationConfig), OmegaConf.load(path)), "degradation."
        )
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def open_pools(settings: "DegradationConfig", prepared: str, split: str) -> "Pools":
    """Return the pools of prepared data; empty ones where nothing is taken from them.

    Raises:
        FileNotFoundError: something is, and there is no prepared data.
    """
    from miipher2.config.paths import ROOT
    from miipher2.data.degradations.chain import required_pools
    from miipher2.data.manifest import Manifest
    from miipher2.data.pools import Pools
    from miipher2.data.prepared import PreparedData

    if required_pools(settings):
        return PreparedData.read(ROOT, prepared).pools(ROOT, split)
    nothing = Manifest.from_utterances([])
    return Pools(nothing, nothing, ROOT)


def degrade_file(
    source: Path, target: Path, settings: "DegradationConfig", pools: "Pools", seed: int
) -> dict[str, Any]:
    """Degrade one file, and return its row of the table.

    Raises:
        AudioError, ValueError or OSError: it cannot be read, degraded or written; names the file.
    """
    from miipher2.atomic_io import sha256_of
    from miipher2.audio.io import read_audio, write_audio
    from miipher2.audio.resample import resample
    from miipher2.config.schema_data import SAMPLE_RATE_HZ
    from miipher2.data.degradations.chain import apply, draw
    from miipher2.rng import stream

    wave, rate_hz = read_audio(source)
    clean, digest = resample(wave, rate_hz, SAMPLE_RATE_HZ), sha256_of(source)
    drawn = draw(stream(seed, "degrade", digest), settings, pools, len(clean))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_audio(target, apply(clean, drawn, pools), SAMPLE_RATE_HZ)
    about = {"file": str(source), "degraded": str(target), "sha256": digest, "seconds": round(len(wave) / rate_hz, 3)}
    return {**about, "seed": seed, "kinds": " ".join(drawn.as_dict()), **_values(drawn, pools)}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one line a file, a column for every value that some file has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    first = [key for key in columns if "." not in key]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *sorted(set(columns) - {*first})], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _values(drawn: "Degradation", pools: "Pools") -> dict[str, Any]:
    """Return what was drawn as `kind.value`, with the names of the pool's files beside their numbers."""
    values = {f"{kind}.{key}": value for kind, fields in drawn.as_dict().items() for key, value in fields.items()}
    if "room.response" in values:
        values["room.file"] = pools.rooms.row(values["room.response"]).name
    if "noise.noise" in values:
        values["noise.file"] = pools.noises.row(values["noise.noise"]).name
    return values


def _name(source: Path) -> str:
    """Return the name of the degraded file: WAV and FLAC keep theirs."""
    return source.name if source.suffix.lower() in KEPT_SUFFIXES else f"{source.stem}.wav"
