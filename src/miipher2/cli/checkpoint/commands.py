"""`miipher2 checkpoint`: its subcommands and their help; each has a module of its own, imported when it runs."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from miipher2.cli.arguments import path

EXAMPLES = """\
examples:
  miipher2 checkpoint ls exp/adapter_embedded
  miipher2 checkpoint show exp/adapter_embedded/checkpoint_100.pt
  miipher2 checkpoint command exp/adapter_embedded/checkpoint_100.pt
  miipher2 checkpoint verify exp
  miipher2 checkpoint diff exp/a/checkpoint_1k.pt exp/b/checkpoint_1k.pt
  miipher2 checkpoint replay exp/a/checkpoint_1k.pt exp/a/checkpoint_2k.pt
"""
LS = """\
List the checkpoints of a run's folder, or of all runs below a folder such as exp, by step.

loss is the last validation at or before the step, best the lowest so far; lineage shows the steps at which the run was
resumed. A checkpoint without its JSON has only a name and a size.

example:
  $ miipher2 checkpoint ls exp/adapter_embedded
  step  size    valid/loss  best        age    run                       lineage           file
  100   7.2 MB  1.207       1.207@100   2 h    20261123-235406-57adcfec  fresh             exp/adapter_embedded/...
  200   7.2 MB  1.199       1.199@200   2 h    20261123-235406-57adcfec  resumed at 100    exp/adapter_embedded/...
"""
SHOW = """\
Show everything about a checkpoint except its tensors: code version, data digest, environment, parents, W&B run, digests
of the random generators, configuration.

FILE may be a checkpoint, its JSON, a folder (its newest checkpoint), or any file in published/, such as
final.safetensors (the checkpoint that led to it). Only the JSON is read; `verify` checks that the tensors match it.

examples:
  miipher2 checkpoint show exp/adapter_embedded/checkpoint_100.pt
  miipher2 checkpoint show exp/harmonic_ft_embedded/published
  miipher2 checkpoint show --json exp/adapter_embedded/published/final.safetensors | jq .code.commit
"""
COMMAND = """\
Print the command that resumes from a checkpoint with all the overrides that its run was started with. The file may be
anywhere. If it is in a published/ that DVC would empty, and nowhere else, a line that copies it out comes first.

example:
  $ miipher2 checkpoint command exp/adapter_embedded/checkpoint_100.pt
  uv run dvc exp run -S train_adapter.seed=1 -S checkpoint.resume_from=exp/adapter_embedded/checkpoint_100.pt
"""
VERIFY = """\
Check that checkpoints and weights are intact: the digest in the JSON, loading without pickle, all entries that a resume
needs, finite values, and that name, JSON and content agree. All files are checked; failures are listed.

--chain FILE walks from published weights or a checkpoint back to the run's first step, offline: each checkpoint's JSON
and chain.jsonl say which one it goes on from, and with which batches, data and code. Files that are still there must
have the sha256 that the chain names; those that rotation has removed are listed as gone. The chain of a run that an
earlier version began ends where that version saved last; this counts as a failure.

exit codes: 0 all intact, 1 at least one is not, or the chain does not reach the first step

examples:
  miipher2 checkpoint verify exp/adapter_embedded/checkpoint_100.pt
  miipher2 checkpoint verify exp            # every run, including published/ and set-aside files
  miipher2 checkpoint verify --chain exp/adapter_embedded/published/final.safetensors
"""
DIFF = """\
Compare two checkpoints, of one run or of two, or two files of weights (.safetensors).

Tensors are compared by name: equal in every bit; close (the largest difference is at most 1e-5 of the largest value);
different; or missing in one. Configuration, data, environment and history are compared too. Settings that cannot
alter a result (intervals, workers, W&B) and a run's identity (run id, parents) are shown but do not count.

exit codes: 0 equal, 1 different

examples:
  miipher2 checkpoint diff exp/a/checkpoint_1k.pt exp/b/checkpoint_1k.pt
  miipher2 checkpoint diff exp/a/published/final.safetensors exp/b/published/final.safetensors
"""
REPLAY = """\
Prove that a run is reproducible: start from the checkpoint FROM with its own configuration, repeat the updates up to
TO, and compare everything in TO (model, optimizers, schedules, EMA, random generators, history) bit by bit.
Checkpoints of the run in between, if they are still in TO's folder, are compared on the way, to show between which
steps a difference arose; the replay ends at the first one that differs.

It writes only into a scratch folder below TMPDIR. It reads the data, the encoder and the earlier stages' published
weights that the configuration names, and warns if they changed. The bits also depend on the kind of device, the number
of threads and library versions, which it names if they changed.

--spans N replays N spans between neighbouring checkpoints, drawn at random, of the run that saved last in the folder
FROM, or between FROM and TO; --seed repeats a draw. A run of several processes is replayed by as many, which torchrun
starts on this host.

exit codes: 0 bit-identical, 1 different

examples:
  miipher2 checkpoint replay exp/adapter_embedded/checkpoint_100.pt exp/adapter_embedded/checkpoint_200.pt
  miipher2 checkpoint replay --spans 3 exp/adapter_embedded
"""


def add_parser(commands: Any) -> None:
    """Add `checkpoint` and its subcommands to the command line."""
    parser = commands.add_parser(
        "checkpoint",
        help="list, show, verify, compare and replay checkpoints, and how to resume",
        description="Inspect checkpoints; nothing is changed.",
        epilog=EXAMPLES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    file, folder = {"metavar": "FILE"}, {"metavar": "DIR"}
    _add(verbs, "ls", "ls", "list checkpoints", LS, folder=folder)
    _add(verbs, "show", "show", "show how a checkpoint or published weights were made", SHOW, file=file)
    _add(
        verbs,
        "command",
        "show:print_command",
        "print the command that resumes from a checkpoint",
        COMMAND,
        file=file,
    )
    verify = _add(verbs, "verify", "verify", "check that files are intact", VERIFY, path={"metavar": "FILE|DIR"})
    verify.add_argument("--chain", action="store_true", help="walk back to the run's first step")
    _add(verbs, "diff", "diff", "compare two checkpoints", DIFF, a={"metavar": "A"}, b={"metavar": "B"})
    ends: dict[str, dict[str, Any]] = {"start": {"metavar": "FROM"}, "end": {"metavar": "TO", "nargs": "?"}}
    replay = _add(
        verbs,
        "replay",
        "replay",
        "repeat the updates between two checkpoints and compare the bits",
        REPLAY,
        **ends,
    )
    replay.add_argument("--spans", type=int, metavar="N", help="replay N spans, drawn at random")
    replay.add_argument("--seed", type=int, metavar="S", help="draw the spans that an earlier call printed this for")


def _add(verbs: Any, verb: str, module: str, summary: str, description: str, **paths: dict[str, Any]) -> Any:
    parser = verbs.add_parser(verb, help=summary, description=description)
    for name, settings in paths.items():
        parser.add_argument(name, type=path, **settings)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.set_defaults(run=_lazily(f"miipher2.cli.checkpoint.{module}"))
    return parser


def _lazily(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a function that imports a module and runs it: most import torch, which would slow down --help."""
    module, _, function = name.partition(":")
    return lambda options: getattr(import_module(module), function or "run")(options)
