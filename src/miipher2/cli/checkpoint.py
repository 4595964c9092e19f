"""`miipher2 checkpoint`: its verbs and their texts. Each verb is a file beside this one, imported when it runs."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  miipher2 checkpoint ls exp/adapter_mini
  miipher2 checkpoint show exp/adapter_mini/checkpoint_100.pt
  miipher2 checkpoint command exp/adapter_mini/checkpoint_100.pt
  miipher2 checkpoint verify exp
  miipher2 checkpoint diff exp/a/checkpoint_1k.pt exp/b/checkpoint_1k.pt
  miipher2 checkpoint replay exp/a/checkpoint_1k.pt exp/a/checkpoint_2k.pt
"""
LS = """\
List the checkpoints of a run's folder, or of all runs below a folder such as exp, by step.

loss is the last validation at or before the step, best the lowest so far; lineage names the steps at which the run was
resumed. A checkpoint without its JSON has only a name and a size.

example:
  $ miipher2 checkpoint ls exp/adapter_mini
  step  size    valid/loss  best        age    run                       lineage           file
  100   3.5 MB  2.021       2.021@100   2 h    20261123-235406-57adcfec  fresh             exp/adapter_mini/...
  200   3.5 MB  1.713       1.713@200   2 h    20261123-235406-57adcfec  resumed at 100    exp/adapter_mini/...
"""
SHOW = """\
Show all that is known of a checkpoint but its tensors: code version, data digest, environment, parents, W&B, digests of
the random generators, configuration.

FILE may be a checkpoint, its JSON, a folder (its newest checkpoint is shown), or any file in published/, such as
final.safetensors: what led to it is shown. It reads the JSON; `verify` checks that the tensors belong to it.

examples:
  miipher2 checkpoint show exp/adapter_mini/checkpoint_100.pt
  miipher2 checkpoint show exp/hifigan_ft_mini/published
  miipher2 checkpoint show --json exp/adapter_mini/published/final.safetensors | jq .code.commit
"""
COMMAND = """\
Print the command that goes on from a checkpoint with the configuration that it was made with, every override included:
for DVC where params.yaml has a stage of that name, else for the stage's script.

example:
  $ miipher2 checkpoint command exp/adapter_mini/checkpoint_100.pt
  uv run dvc exp run -S train_adapter.seed=1 -S checkpoint.resume_from=exp/adapter_mini/checkpoint_100.pt
"""
VERIFY = """\
Check that checkpoints and weights are whole: the digest in the JSON, loading without pickle, the entries that a run
needs, finite values, and that name, JSON and content tell the same. All files are checked; failures are listed.

exit codes: 0 all whole, 1 at least one is not

examples:
  miipher2 checkpoint verify exp/adapter_mini/checkpoint_100.pt
  miipher2 checkpoint verify exp            # every run, published/ and set-aside files too
"""
DIFF = """\
Compare two checkpoints, of one run or of two, or two files of weights (.safetensors).

Tensors are compared by name: equal in every bit; close, where the largest difference is at most 1e-5 of the largest
value; different; or missing in one. Configuration, data, environment and history are compared too. What cannot
alter a result (intervals, workers, W&B), and what names a run (run id, parents), is shown and does not count.

exit codes: 0 equal, 1 different

examples:
  miipher2 checkpoint diff exp/a/checkpoint_1k.pt exp/b/checkpoint_1k.pt
  miipher2 checkpoint diff exp/a/published/final.safetensors exp/b/published/final.safetensors
"""
REPLAY = """\
Prove that a run can be repeated: start from the checkpoint FROM, with the configuration in it, make the updates up to
TO once more, and compare everything that TO holds (model, optimizers, schedules, EMA, random generators, history) bit
by bit. Checkpoints of the run in between, where the folder of TO still has them, are compared on the way, to say
between which steps a difference arose; it ends at the first one that differs.

It writes into a scratch folder under TMPDIR alone. It reads the data, the encoder and the earlier stages' published
weights that the configuration names, and warns where they are not those of the run. The bits also depend on the kind of
device, the number of threads and the versions of libraries, which it names where they changed.

exit codes: 0 bit-identical, 1 different

example:
  miipher2 checkpoint replay exp/adapter_mini/checkpoint_100.pt exp/adapter_mini/checkpoint_200.pt
"""


def add_parser(commands: Any) -> None:
    """Add `checkpoint` and its verbs to the command line."""
    parser = commands.add_parser(
        "checkpoint",
        help="list, show, verify, compare and replay checkpoints, and how to go on from one",
        description="Look at checkpoints; nothing is changed.",
        epilog=EXAMPLES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    file, folder = {"metavar": "FILE"}, {"metavar": "DIR"}
    _add(verbs, "ls", "checkpoint_ls", "list checkpoints", LS, folder=folder)
    _add(verbs, "show", "checkpoint_show", "show where a checkpoint or published weights come from", SHOW, file=file)
    _add(verbs, "command", "checkpoint_command", "print the command that goes on from a checkpoint", COMMAND, file=file)
    _add(verbs, "verify", "checkpoint_verify", "check that files are whole", VERIFY, path={"metavar": "FILE|DIR"})
    _add(verbs, "diff", "checkpoint_diff", "compare two checkpoints", DIFF, a={"metavar": "A"}, b={"metavar": "B"})
    ends = {"start": {"metavar": "FROM"}, "end": {"metavar": "TO"}}
    _add(
        verbs,
        "replay",
        "checkpoint_replay",
        "repeat the updates between two checkpoints and compare the bits",
        REPLAY,
        **ends,
    )


def _add(verbs: Any, verb: str, module: str, summary: str, description: str, **paths: dict[str, str]) -> None:
    parser = verbs.add_parser(verb, help=summary, description=description)
    for name, settings in paths.items():
        parser.add_argument(name, type=Path, **settings)
    parser.add_argument("--json", action="store_true", help="write JSON, for scripts")
    parser.set_defaults(run=_lazily(f"miipher2.cli.{module}"))


def _lazily(module: str) -> Callable[[argparse.Namespace], int]:
    """Return what imports a verb's module when it runs: most import torch, and a help text should not wait for it."""
    return lambda options: import_module(module).run(options)
