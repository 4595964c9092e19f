"""`miipher2 degrade`: recordings in, degraded recordings out, with a table of the degradations of each."""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.atomic_io import write_atomically
from miipher2.cli.arguments import MAX_SEED, path, text, whole

if TYPE_CHECKING:
    from miipher2.config.schema_data import DegradationConfig
    from miipher2.data.degradations.chain import Degradation
    from miipher2.data.pools import Pools

DEGRADE = """\
Degrade a recording, or every recording below a folder, with the degradations of training: for making test sets.

The degradation of a recording depends only on the seed and on its content. Output is written at 16 kHz, mono, as .wav
or .flac; for a folder, the tree is kept, and other formats become .wav. degradations.csv, beside the output, lists the
degradations applied to each recording. Noises, rooms and babble come from the test split of prepared data. Files that
fail are listed at the end; the others are degraded. An output file is written completely or not at all.

exit codes: 0 all degraded, 1 some failed, 2 wrong usage or input

examples:
  miipher2 degrade clean.wav noisy.wav --config miipher2
  miipher2 degrade clean/ noisy/ --config sidon --seed 7 --prepared data/prepared/libritts_r
  miipher2 degrade clean/ noisy/ --config my_degradation.yaml
"""
PREPARED = "data/prepared/embedded"
TABLE = "degradations.csv"
OUTPUT_SUFFIXES = (".wav", ".flac")


def add_parser(commands: Any) -> None:
    """Add `degrade` to the command line."""
    parser = commands.add_parser("degrade", help="degrade recordings, for test sets", description=DEGRADE)
    parser.add_argument("source", type=path, metavar="IN", help="a recording, or a folder of recordings")
    parser.add_argument("target", type=path, metavar="OUT", help="output file or folder; existing files are replaced")
    parser.add_argument(
        "--config", type=text, required=True, help="a name in configs/degradation/, or a YAML file of that form"
    )
    parser.add_argument("--seed", type=whole(-MAX_SEED), default=0, help="of the degradations (default: 0)")
    parser.add_argument(
        "--prepared", type=text, metavar="DIR", default=PREPARED, help=f"prepared data (default: {PREPARED})"
    )
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"), help="of its noises and rooms")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Degrade, write the table, list failures, and return the exit code."""
    jobs = find_jobs(arguments.source, arguments.target)

    from miipher2.config.paths import check_distinct, check_keeps_inputs, check_output

    is_folder = arguments.source.is_dir()
    check_output(arguments.target if is_folder else jobs[0][1], [arguments.source] if is_folder else [])
    check_keeps_inputs(jobs)
    check_distinct(jobs)

    from tqdm import tqdm

    from miipher2.data.degradations.chain import check_pools

    config = read_config(arguments.config)
    pools = open_pools(config, arguments.prepared, arguments.split)
    check_pools(config, pools)
    rows, failures = [], []
    for source, target in tqdm(jobs, unit="file", dynamic_ncols=True, disable=not sys.stderr.isatty()):
        try:
            rows.append(degrade_file(source, target, config, pools, arguments.seed))
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            failures.append(text if str(source) in text or str(target) in text else f"{source}: {text}")
    table = (arguments.target if is_folder or arguments.target.is_dir() else arguments.target.parent) / TABLE
    if rows:
        write_table(table, rows)
    sys.stdout.write(f"{len(rows)} of {len(jobs)} degraded to {arguments.target}; see {table}\n")
    for failure in failures:
        sys.stderr.write(f"FAILED  {failure}\n")
    return int(bool(failures))


def find_jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return the pairs of a recording and its output file, in order.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is nothing to degrade, or an output would replace a recording or another output.
    """
    from miipher2.audio.files import SOUND_SUFFIXES, find_sound_files

    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.is_file():
        path = target / _output_name(source) if target.is_dir() else target
        if path.suffix.lower() not in OUTPUT_SUFFIXES:
            raise ValueError(f"{target}: should end in .wav or .flac, or be an existing folder")
        jobs = [(source, path)]
    else:
        if target.is_file():
            raise ValueError(f"{target}: should be a folder, since {source} is one")
        found = find_sound_files(source, exclude=target)  # OUT inside IN holds the results of an earlier run
        sys.stderr.write(found.passed_over_line(source))
        jobs = [(path, target / path.relative_to(source).with_name(_output_name(path))) for path in found.paths]
    if not jobs:
        raise ValueError(f"{source}: holds no recordings ({', '.join(SOUND_SUFFIXES)})")
    sources: dict[Path, Path] = {}
    for path, output in jobs:
        if output.resolve() == path.resolve():
            raise ValueError(f"{path}: would be replaced by its degraded version; OUT should be another path")
        if output in sources:
            raise ValueError(f"{sources[output]} and {path} would both become {output}; rename one")
        sources[output] = path
    return jobs


def read_config(name: str) -> "DegradationConfig":
    """Return the degradations of a shipped name or of a YAML file, checked against the schema.

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
        raise FileNotFoundError(f"--config {name}: no such file; should be a YAML file, or one of {names}")
    try:
        return to_dataclass(
            OmegaConf.merge(OmegaConf.structured(DegradationConfig), OmegaConf.load(path)), "degradation."
        )
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def open_pools(config: "DegradationConfig", prepared: str, split: str) -> "Pools":
    """Return the pools of prepared data, or empty ones where no degradation uses them.

    Raises:
        FileNotFoundError: a degradation uses them, and there is no prepared data.
    """
    from miipher2.config.paths import ROOT
    from miipher2.data.degradations.chain import required_pools
    from miipher2.data.manifest import Manifest
    from miipher2.data.pools import Pools
    from miipher2.data.prepared import PreparedData

    if required_pools(config):
        return PreparedData.read(ROOT, prepared).pools(ROOT, split)
    empty = Manifest.from_utterances([])
    return Pools(empty, empty, ROOT)


def degrade_file(source: Path, target: Path, config: "DegradationConfig", pools: "Pools", seed: int) -> dict[str, Any]:
    """Degrade one file, and return its row of the table.

    Raises:
        AudioError, ValueError or OSError: it cannot be read, degraded or written; names the file.
    """
    from miipher2.atomic_io import sha256_of
    from miipher2.audio.files import printable
    from miipher2.audio.io import read_audio, write_audio
    from miipher2.audio.resample import resample
    from miipher2.config.schema_data import SAMPLE_RATE_HZ
    from miipher2.data.degradations.chain import apply, draw
    from miipher2.rng import stream

    wave, rate_hz = read_audio(source)
    clean, digest = resample(wave, rate_hz, SAMPLE_RATE_HZ), sha256_of(source)
    degradation = draw(stream(seed, "degrade", digest), config, pools, len(clean))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_audio(target, apply(clean, degradation, pools), SAMPLE_RATE_HZ)
    row = {
        "file": printable(source),
        "degraded": printable(target),
        "sha256": digest,
        "seconds": round(len(wave) / rate_hz, 3),
    }
    return {**row, "seed": seed, "degradations": " ".join(degradation.as_dict()), **_table_values(degradation, pools)}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a line for each file, with a column for every value of any file."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    first = [key for key in columns if "." not in key]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *sorted(set(columns) - {*first})], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _table_values(degradation: "Degradation", pools: "Pools") -> dict[str, Any]:
    """Return the parameters of a degradation as `name.parameter`, with the names of noise and room files."""
    values = {f"{name}.{key}": value for name, fields in degradation.as_dict().items() for key, value in fields.items()}
    if "room.response" in values:
        values["room.file"] = pools.rooms.row(values["room.response"]).name
    if "noise.noise" in values:
        values["noise.file"] = pools.noises.row(values["noise.noise"]).name
    return values


def _output_name(source: Path) -> str:
    """Return the name of the degraded file: WAV and FLAC files keep theirs."""
    return source.name if source.suffix.lower() in OUTPUT_SUFFIXES else f"{source.stem}.wav"
