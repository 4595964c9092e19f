"""`miipher2 restore`: recordings in, restored recordings out; and the options of every command that restores."""

import argparse
import os
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.cli.arguments import name_part, path, text, whole
from miipher2.config.paths import is_hub_name
from miipher2.inference.options import RestoreOptions

if TYPE_CHECKING:
    from miipher2.inference.batch_job import Outcome
    from miipher2.inference.files import Task
    from miipher2.inference.restorer import Restorer

ADAPTER, VOCODER = "exp/adapter_embedded/published", "exp/harmonic_ft_embedded/published"
SHIPPED = "models/mini/restorer"  # in Git: restores without training or download
RESTORE = """\
Restore a recording, every recording below a folder, or those of a list (.txt, a path on each line).

For a file, the suffix of OUT sets the format, .wav, .flac or .ogg; in an existing folder OUT, the file keeps its name.
For a folder, the tree is kept: WAV stays WAV, FLAC stays FLAC, anything else becomes WAV, unless --format is given;
a.mp3 beside a.wav becomes a.mp3.wav. Each channel is restored on its own, and the length does not change; the output
has the sample rate of the model. An output file is written completely or not at all.

A folder or list job can be killed and started again: OUT/.restoring/ records the finished files, which are skipped
where the digests of input, weights, options and output all match. Several processes may work on one OUT, each on its
own --shard. OUT/lineage.json records what the recordings were made with. Files that fail are listed at the end; the
others are restored.

exit codes: 0 all restored, 1 some failed, 2 wrong usage or input

examples:
  miipher2 restore noisy.mp3 clean.wav
  miipher2 restore recordings/ restored/ --format flac --batch-size 8 --device cuda
  miipher2 restore recordings.txt restored/ --shard 3/16
  miipher2 restore noisy.wav clean.wav --adapter exp/adapter_layer_6_mhubert_147/published \\
      --vocoder exp/hifigan_ft_layer_6_mhubert_147/published --precision bf16
"""


def add_parser(commands: Any) -> None:
    """Add `restore` to the command line."""
    parser = commands.add_parser("restore", help="restore recordings", description=RESTORE)
    parser.add_argument("source", type=path, metavar="IN", help="a recording, a folder of recordings, or a list")
    parser.add_argument("target", type=path, metavar="OUT", help="output file or folder; existing files are replaced")
    add_restore_options(parser)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="reading and writing threads, each (2)")
    parser.add_argument("--format", choices=("wav", "flac", "ogg"), help="output format for a folder or a list")
    parser.add_argument(
        "--suffix", type=name_part, default="", metavar="TEXT", help="added to each name, before the dot"
    )
    parser.add_argument("--shard", type=text, default="1/1", metavar="I/N", help="do part I of N, for job arrays")
    parser.add_argument(
        "--ray", type=text, metavar="ADDRESS", help="run on a Ray cluster (local starts one on this machine)"
    )
    parser.add_argument("--actors", type=whole(1), default=1, metavar="N", help="restorers on the Ray cluster (1)")
    parser.set_defaults(run=run)


def add_restore_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that restores: which weights, and `RestoreOptions`."""
    parser.add_argument(
        "--bundle",
        type=path,
        metavar="DIR",
        help=f"written by `miipher2 export`, or owner/name[@revision] on the Hugging Face hub (default: {SHIPPED}, "
        "which ships)",
    )
    parser.add_argument(
        "--adapter", type=path, metavar="DIR", help=f"instead, published by stage 1, such as {ADAPTER}, or on the hub"
    )
    parser.add_argument(
        "--vocoder", type=path, metavar="DIR", help=f"and published by stage 3, such as {VOCODER}, or on the hub"
    )
    for each in fields(RestoreOptions):
        name = f"--{each.name.replace('_', '-')}"
        parser.add_argument(name, type=type(each.default), default=each.default, **each.metadata)


def weights_folders(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return the absolute folders of `--bundle`, `--adapter` and `--vocoder`; names on the hub as they are.

    Raises:
        ValueError: they contradict each other.
    """
    folders = {name: getattr(arguments, name) for name in ("bundle", "adapter", "vocoder")}
    if folders["bundle"] is not None and (folders["adapter"] or folders["vocoder"]):
        raise ValueError("--bundle includes adapter and vocoder; leave out --adapter and --vocoder")
    if (folders["adapter"] is None) != (folders["vocoder"] is None):
        missing, example = ("--vocoder", VOCODER) if folders["vocoder"] is None else ("--adapter", ADAPTER)
        raise ValueError(f"{missing} is missing: --adapter and --vocoder go together; such as {missing} {example}")
    return {
        name: folder and str(folder if is_hub_name(str(folder)) else folder.absolute())
        for name, folder in folders.items()
    }


def restore_options(arguments: argparse.Namespace) -> RestoreOptions:
    """Return the options of a restoration.

    Raises:
        ValueError: a value is out of its range.
    """
    return RestoreOptions(**{each.name: getattr(arguments, each.name) for each in fields(RestoreOptions)})


def load_restorer(folders: dict[str, str | None], options: RestoreOptions) -> "Restorer":
    """Return a restorer with the weights in `folders`, or with those that ship.

    Raises:
        ValueError: there is no such device, or the weights do not fit.
    """
    from miipher2.config.paths import ROOT
    from miipher2.inference.restorer import Restorer
    from miipher2.models.device import choose_device

    options = replace(options, device=str(choose_device(options.device, "--device ")))
    if folders["adapter"] is not None and folders["vocoder"] is not None:
        return Restorer.from_published(folders["adapter"], folders["vocoder"], options, root=ROOT)
    return Restorer.from_bundle(folders["bundle"] or ROOT / SHIPPED, options, root=ROOT)


def run(arguments: argparse.Namespace) -> int:
    """Restore, list failures, and return the exit code."""
    from miipher2.config.paths import check_distinct, check_keeps_inputs, check_output, check_replaces_nothing
    from miipher2.inference.files import Naming, Shard, find_tasks, is_folder_job

    if arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: should be at least 1")
    shard = Shard.parse(arguments.shard)
    naming = Naming(arguments.format, arguments.suffix)
    tasks = find_tasks(arguments.source, arguments.target, naming, sys.stderr.write)
    is_folder = is_folder_job(arguments.source)
    check_output(arguments.target if is_folder else tasks[0].target, [arguments.source] if is_folder else [])
    jobs = [(task.source, task.target) for task in tasks]
    check_keeps_inputs(jobs)
    check_distinct(jobs)
    if is_folder:
        check_replaces_nothing(arguments.target, ("lineage.json",), ".restoring")
        tasks = [task for task in tasks if shard.contains(task)]
    folders, options = weights_folders(arguments), restore_options(arguments)
    started = time.monotonic()
    if arguments.ray is not None:
        if not is_folder:
            raise ValueError("--ray: IN should be a folder or a list; a single recording is restored on this machine")
        if options.device not in ("cpu", "cuda"):
            raise ValueError(
                f"--ray --device {options.device}: should be cpu or cuda; Ray gives each actor its own GPU"
            )
        outcome = _run_on_ray(arguments, folders, options, tasks)
    else:
        restorer = load_restorer(folders, options)
        started = time.monotonic()
        outcome = _run_here(arguments, restorer, tasks, is_folder)
    return report(outcome, arguments.target, time.monotonic() - started)


def report(outcome: "Outcome", target: Path, seconds: float) -> int:
    """Print the results of a job and return the exit code."""
    parts = [f"{len(outcome.restored)} restored"]
    parts += [f"{len(outcome.skipped)} already there"] if outcome.skipped else []
    parts += [f"{len(outcome.failed)} failed"] if outcome.failed else []
    speed = f"; {outcome.seconds:.1f} s of audio at {outcome.seconds / max(seconds, 1e-9):.1f} x real time"
    sys.stdout.write(f"{', '.join(parts)}: {target}{speed if outcome.restored else ''}\n")
    for _, reason in sorted(outcome.failed, key=lambda failed: failed[0].name):
        sys.stderr.write(f"FAILED  {reason}\n")
    return int(bool(outcome.failed))


def _run_here(arguments: argparse.Namespace, restorer: "Restorer", tasks: "list[Task]", is_folder: bool) -> "Outcome":
    from miipher2.inference.batch_job import Job
    from miipher2.inference.journal import open_journal

    journal = open_journal(restorer, arguments.target) if is_folder else None
    with _ProgressBar(tasks) as bar:
        try:
            return Job(restorer, journal, workers=arguments.workers, on_progress=bar.advance).run(tasks)
        finally:
            if journal is not None:
                journal.close()


def _run_on_ray(
    arguments: argparse.Namespace, folders: dict[str, str | None], options: RestoreOptions, tasks: "list[Task]"
) -> "Outcome":
    from functools import partial

    from miipher2.inference.ray_job import run_on_ray

    with _ProgressBar(tasks) as bar:
        return run_on_ray(
            tasks,
            arguments.target.absolute(),
            address=arguments.ray,
            actors=arguments.actors,
            workers=arguments.workers,
            make_restorer=partial(load_restorer, folders, options),
            uses_gpu=options.device.startswith("cuda"),
            on_progress=bar.advance,
        )


class _ProgressBar:
    """A bar over the bytes of the input (durations are unknown before files are opened), with the remaining time."""

    def __init__(self, tasks: "list[Task]") -> None:
        from tqdm import tqdm

        self._sizes = {task: float(task.source.stat().st_size if task.source.is_file() else 0) for task in tasks}
        self._remaining = dict(self._sizes)
        self._bar = tqdm(
            total=round(sum(self._sizes.values())),
            unit="B",
            unit_scale=True,
            smoothing=0.05,
            disable=not sys.stderr.isatty(),
            **_bar_size(),
        )
        self._lock = threading.Lock()
        self._seconds, self._started = 0.0, time.monotonic()

    def advance(self, task: "Task", share: float, seconds: float) -> None:
        """Advance by a share of a task, at most by what remains of it, and by seconds of audio; from any thread."""
        with self._lock:
            done = min(share * self._sizes[task], self._remaining[task])
            self._remaining[task] -= done
            self._seconds += seconds
            if self._seconds:
                speed = self._seconds / max(time.monotonic() - self._started, 1e-9)
                self._bar.set_postfix_str(f"{speed:.1f} x real time", refresh=False)
            self._bar.update(done)

    def __enter__(self) -> "_ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _bar_size() -> dict[str, Any]:
    """Return the terminal's width, or one for a terminal without columns, where tqdm would print nothing."""
    if sys.stderr.isatty() and not all(os.get_terminal_size(sys.stderr.fileno())):
        return {"ncols": 100, "nrows": 20}
    return {"dynamic_ncols": True}
