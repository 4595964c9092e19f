"""`miipher2 restore`: recordings in, restored recordings out, with published weights or a bundle."""

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.cli.weights_options import add_weights_options, load_restorer, options_of, restorer_from

if TYPE_CHECKING:
    from miipher2.inference.batch_job import Outcome
    from miipher2.inference.journal import Journal, Task
    from miipher2.inference.restorer import Restorer

RESTORE = """\
Restore a recording, every recording below a folder, or those that a list names (.txt, a path on each line).

For a file, the suffix of OUT says what is written, .wav, .flac or .ogg; an OUT that is a folder takes the name of the
file. For a folder, its tree is kept: WAV stays WAV, FLAC stays FLAC, anything else becomes WAV, unless --format says
otherwise; a.mp3 beside a.wav becomes a.mp3.wav. Channels are kept, each restored on its own; the length is the
input's. An output appears whole or not at all.

A folder or list job can be killed and started again: OUT/.restoring/ records what is finished, and what is finished is
skipped where the digests of input, weights, options and output all agree. Several processes may work on one OUT, each
on its --shard. OUT/lineage.json says what the recordings were made with. A file that fails is listed at the end and
does not stop the others.

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
    parser.add_argument("source", type=Path, metavar="IN", help="a recording, a folder of them, or a list")
    parser.add_argument("target", type=Path, metavar="OUT", help="where the result goes; existing files are replaced")
    add_weights_options(parser)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read, and that write (2)")
    parser.add_argument("--format", choices=("wav", "flac", "ogg"), help="what a folder's recordings become")
    parser.add_argument("--suffix", default="", metavar="TEXT", help="put after each name, before the dot")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="do the I-th of N parts, for job arrays")
    parser.add_argument("--ray", metavar="ADDRESS", help="spread the job over a Ray cluster (local starts one here)")
    parser.add_argument("--actors", type=int, default=1, metavar="N", help="restorers on the Ray cluster (1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Restore, list failures, and return the exit code."""
    from miipher2.inference.files import Naming, Shard, find_tasks, is_folder_job

    if options.workers < 1:
        raise ValueError(f"--workers {options.workers}: should be 1 at least")
    shard = Shard.parse(options.shard)
    tasks = find_tasks(options.source, options.target, Naming(options.format, options.suffix))
    is_folder = is_folder_job(options.source)
    if is_folder:
        tasks = [task for task in tasks if shard.holds(task)]
    started = time.monotonic()
    if options.ray is not None:
        outcome = _run_on_ray(options, tasks, is_folder)
    else:
        restorer = load_restorer(options)
        started = time.monotonic()
        outcome = _run_here(options, restorer, tasks, open_journal(restorer, options.target) if is_folder else None)
    return say(outcome, options.target, time.monotonic() - started)


def open_journal(restorer: "Restorer", folder: Path) -> "Journal":
    """Return the folder's journal, having written its lineage."""
    from miipher2.inference.journal import Journal
    from miipher2.inference.lineage import lineage_of, made_with, write_lineage

    journal = Journal(folder, made_with(restorer))
    write_lineage(folder, lineage_of(restorer))
    return journal


def say(outcome: "Outcome", target: Path, seconds: float) -> int:
    """Print what became of a job and return the exit code."""
    parts = [f"{len(outcome.restored)} restored"]
    parts += [f"{len(outcome.skipped)} already there"] if outcome.skipped else []
    parts += [f"{len(outcome.failed)} failed"] if outcome.failed else []
    speed = f"; {outcome.seconds:.1f} s of audio at {outcome.seconds / max(seconds, 1e-9):.1f} x real time"
    sys.stdout.write(f"{', '.join(parts)}: {target}{speed if outcome.restored else ''}\n")
    for _, reason in sorted(outcome.failed, key=lambda failed: failed[0].name):
        sys.stderr.write(f"FAILED  {reason}\n")
    return int(bool(outcome.failed))


def _run_here(
    options: argparse.Namespace, restorer: "Restorer", tasks: "list[Task]", journal: "Journal | None"
) -> "Outcome":
    from miipher2.inference.batch_job import Job

    with _Progress(tasks) as progress:
        job = Job(restorer, journal, workers=options.workers, on_progress=progress.add)
        try:
            return job.run(tasks)
        finally:
            if journal is not None:
                journal.close()


def _run_on_ray(options: argparse.Namespace, tasks: "list[Task]", is_folder: bool) -> "Outcome":
    if not is_folder:
        raise ValueError("--ray: IN should be a folder or a list; a single recording is restored here")
    from functools import partial

    from miipher2.inference.ray_job import run_on_ray

    with _Progress(tasks) as progress:
        return run_on_ray(
            tasks,
            options.target.absolute(),
            address=options.ray,
            actors=options.actors,
            workers=options.workers,
            make_restorer=partial(restorer_from, **options_of(options)),
            on_progress=progress.add,
        )


class _Progress:
    """A bar over the bytes of the input, since lengths are not known before files are opened.

    It says how long the rest takes at the present pace, and how many times faster than real time it goes.
    """

    def __init__(self, tasks: "list[Task]") -> None:
        from tqdm import tqdm

        self._left = {task: float(task.source.stat().st_size if task.source.is_file() else 0) for task in tasks}
        self._sizes = dict(self._left)
        self._bar = tqdm(
            total=round(sum(self._sizes.values())),
            unit="B",
            unit_scale=True,
            smoothing=0.05,
            disable=not sys.stderr.isatty(),
            **_shape(),
        )
        self._lock = threading.Lock()
        self._seconds, self._started = 0.0, time.monotonic()

    def add(self, task: "Task", share: float, seconds: float) -> None:
        """Move on by a share of a task, or by what is left of it, and by seconds of audio; from any thread."""
        with self._lock:
            done = min(share * self._sizes[task], self._left[task])
            self._left[task] -= done
            self._seconds += seconds
            if self._seconds:
                speed = self._seconds / max(time.monotonic() - self._started, 1e-9)
                self._bar.set_postfix_str(f"{speed:.1f} x real time", refresh=False)
            self._bar.update(done)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _shape() -> dict[str, Any]:
    """Return the bar's width: the terminal's; where that says 0, as in a container, tqdm would be silent."""
    if sys.stderr.isatty() and not all(os.get_terminal_size(sys.stderr.fileno())):
        return {"ncols": 100, "nrows": 20}
    return {"dynamic_ncols": True}
