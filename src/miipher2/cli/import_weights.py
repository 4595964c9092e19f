"""`miipher2 import`: weights of other projects in, published folders out."""

import argparse
import sys
from typing import Any

from miipher2.cli.arguments import path, text, whole

IMPORT = """\
Import weights of another project. OUT gets encoder/, adapter/, vocoder/ and imported.json, which work like
the folders that our own stages publish: for restore, export, init_from and training. The kind of a file is told from
its keys. Nothing in it is run; only --check runs the code of TorchScript files, to compare what was imported with their
own output. docs/import.md lists what can be imported, how exactly, and under which licence.

--encoder is the encoder that the file was trained from, whose config.json is needed; by default the one that the file
names. A key of the file that is neither used nor known is an error.

examples:
  miipher2 import models/original --adapter checkpoint_199k.pt --encoder utter-project/mHuBERT-147
  miipher2 import models/vocoder --vocoder hubert_base_l3.ckpt --encoder facebook/hubert-base-ls960 --layer 3
"""


def add_parser(commands: Any) -> None:
    """Add `import` to the command line."""
    parser = commands.add_parser("import", help="import weights of another project", description=IMPORT)
    parser.add_argument("folder", type=path, metavar="OUT", help="a new folder")
    parser.add_argument("--adapter", type=path, metavar="FILE", help="a checkpoint with adapters")
    parser.add_argument("--vocoder", type=path, metavar="FILE", help="a checkpoint with a vocoder")
    parser.add_argument("--encoder", type=text, metavar="NAME|DIR", help="a folder, or a name on the hub")
    parser.add_argument("--layer", type=whole(1), metavar="N", help="of the encoder, where a file does not tell")
    parser.add_argument(
        "--optimizer",
        action="store_true",
        help="also the optimizer's moments of the adapters, for stage 1 to go on from (not bit for bit)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare with a TorchScript file's own output; RUNS THE CODE IN THAT FILE, so trust it first",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print what was imported, what is not exact, and licences."""
    from pathlib import Path

    from miipher2.config.paths import ROOT, check_output

    if arguments.folder.exists():
        raise FileExistsError(f"{arguments.folder}: exists; should be a new folder")
    if not (files := [each for each in (arguments.adapter, arguments.vocoder) if each is not None]):
        raise ValueError("--adapter and --vocoder are both missing; should name at least one file")
    check_output(arguments.folder, files)

    from miipher2.importing.importer import Sources, import_weights

    if arguments.check:
        sys.stdout.write(f"--check runs the code in {' and '.join(map(str, dict.fromkeys(files)))}\n")
        sys.stdout.flush()
    sources = Sources(
        arguments.adapter,
        arguments.vocoder,
        arguments.encoder,
        arguments.layer,
        has_optimizer=arguments.optimizer,
        is_checked=arguments.check,
    )
    described = import_weights(arguments.folder, sources, ROOT)
    if "adapter" not in described and described["encoder"]["is_non_commercial"]:
        sys.stdout.write(f"{arguments.folder / 'encoder'}\n  {_terms(described['encoder'])}\n")
    for part in ("adapter", "vocoder"):
        if part in described:
            _report(Path(arguments.folder, part), described[part])
    return 0


def _report(folder: Any, record: dict[str, Any]) -> None:
    step = "" if record["step"] is None else f", step {record['step']}"
    lines = [f"{folder}: {record['kind']} ({record['file']}{step})"]
    lines += [f"  not exact: {each}" for each in record["not_exact"]]
    if record["checked"] is not None:
        lines += [f"  checked: at most {record['checked']:.1g} of the largest value apart from the file's own output"]
    lines += [f"  left out: {reason} ({len(names)})" for reason, names in record["left_out"].items()]
    lines += [f"  {_terms(record)}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _terms(record: dict[str, Any]) -> str:
    return f"{'NO COMMERCIAL USE' if record['is_non_commercial'] else 'licence'}: {record['licence']}"
