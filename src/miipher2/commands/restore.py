"""`miipher2 restore`: recordings in, restored recordings out, with published weights."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miipher2.restore import Restorer

RESTORE = """\
Restore a recording, or every recording below a folder.

For a file, the suffix of OUT says what is written, .wav or .flac; an OUT that is a folder takes the name of the file.
For a folder, its tree is kept: WAV stays WAV, FLAC stays FLAC, anything else becomes WAV. Channels are averaged to one.
A file that fails is listed at the end and does not stop the others; an output is written whole or not at all.

exit codes: 0 all restored, 1 some failed, 2 wrong usage or input

examples:
  miipher2 restore noisy.mp3 clean.wav
  miipher2 restore recordings/ restored/
  miipher2 restore noisy.wav clean.wav --adapter exp/adapter_layer_6_mhubert_147/published \\
      --vocoder exp/hifigan_ft_layer_6_mhubert_147/published --device cuda
"""
ADAPTER, VOCODER = "exp/adapter_mini/published", "exp/hifigan_ft_mini/published"
KEPT_SUFFIXES = (".wav", ".flac")


def add_parser(commands: Any) -> None:
    """Add `restore` to the command line."""
    parser = commands.add_parser("restore", help="restore recordings", description=RESTORE)
    parser.add_argument("source", type=Path, metavar="IN", help="a recording, or a folder of them")
    parser.add_argument("target", type=Path, metavar="OUT", help="where the result goes; existing files are replaced")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=f"published folder of stage 1 (default: {ADAPTER})")
    parser.add_argument("--vocoder", type=Path, metavar="DIR", help=f"published folder of stage 3 (default: {VOCODER})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Restore, list failures, and return the exit code."""
    jobs = find_jobs(options.source, options.target)

    import torch
    from tqdm import tqdm

    from miipher2.config import ROOT
    from miipher2.restore import Restorer

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}: PyTorch sees no CUDA device; leave it out to use the CPU")
    adapter, vocoder = (options.adapter or ROOT / ADAPTER).absolute(), (options.vocoder or ROOT / VOCODER).absolute()
    restorer = Restorer.from_published(adapter, vocoder, root=ROOT, device=options.device)
    failures = []
    for source, target in tqdm(jobs, unit="file", dynamic_ncols=True, disable=not sys.stderr.isatty()):
        try:
            restore_file(restorer, source, target)
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            failures.append(text if str(source) in text or str(target) in text else f"{source}: {text}")
    sys.stdout.write(f"{len(jobs) - len(failures)} of {len(jobs)} restored to {options.target}\n")
    for failure in failures:
        sys.stderr.write(f"FAILED  {failure}\n")
    return int(bool(failures))


def find_jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what is read and where it goes, in order.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is nothing to restore, or the target cannot take it.
    """
    from miipher2.audio import SOUND_SUFFIXES

    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.is_file():
        one = target / _name(source) if target.is_dir() else target
        if one.suffix.lower() not in KEPT_SUFFIXES:
            raise ValueError(f"{target}: should end in .wav or .flac, or be a folder that exists")
        if one.resolve() == source.resolve():
            raise ValueError(f"{source}: would be replaced by its own restoration; name another OUT")
        return [(source, one)]
    if target.is_file() or target.resolve() == source.resolve():
        raise ValueError(f"{target}: should be another folder, since {source} is one")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.is_file())
    jobs: dict[Path, Path] = {}
    for path in found:
        if target.resolve() in path.resolve().parents:  # OUT lies inside IN: what an earlier run restored
            continue
        goal = target / path.relative_to(source).with_name(_name(path))
        if goal in jobs:
            raise ValueError(f"{jobs[goal]} and {path} would both become {goal}; rename one")
        jobs[goal] = path
    if not jobs:
        raise ValueError(f"{source}: holds no recordings ({', '.join(sorted(SOUND_SUFFIXES))})")
    return [(path, goal) for goal, path in jobs.items()]


def restore_file(restorer: "Restorer", source: Path, target: Path) -> None:
    """Restore one file.

    Raises:
        AudioError, ValueError or OSError: it cannot be read, restored or written; names the file.
    """
    from miipher2 import audio

    wave, rate_hz = audio.read(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    audio.write(target, restorer(wave, rate_hz), restorer.sample_rate_hz)


def _name(source: Path) -> str:
    """Return the name of the restored file: WAV and FLAC keep theirs."""
    return source.name if source.suffix.lower() in KEPT_SUFFIXES else f"{source.stem}.wav"
