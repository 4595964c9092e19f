"""`miipher2 export`: one folder with all that restoring needs, and the networks as ONNX graphs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.cli.arguments import path, text
from miipher2.cli.restore import ADAPTER, VOCODER

if TYPE_CHECKING:
    from miipher2.inference.hub import Push
    from miipher2.inference.weights import Weights

EXPORT = """\
Write a bundle: weights, settings and lineage in one folder, for `miipher2 restore --bundle` and `Restorer.from_bundle`.
With the encoder included, a bundle needs nothing else; with --encoder reference it refers to the encoder by name.

--push uploads it to the Hugging Face hub (log in first: `uv run hf auth login`), with a model card, OUT/README.md: how
to use it, what it was made from, licences, and figures where --results names some. Then --bundle owner/name restores.

examples:
  miipher2 export bundle/ --precision bf16
  miipher2 export bundle/ --encoder reference --onnx
  miipher2 export bundle/ --push owner/name --license cc-by-4.0 --results exp/results/evaluate_table.csv
"""


def add_parser(commands: Any) -> None:
    """Add `export` to the command line."""
    parser = commands.add_parser("export", help="write one folder that restores", description=EXPORT)
    parser.add_argument("folder", type=path, metavar="OUT", help="a new folder")
    parser.add_argument("--adapter", type=path, metavar="DIR", help=f"published by stage 1 (default: {ADAPTER})")
    parser.add_argument("--vocoder", type=path, metavar="DIR", help=f"published by stage 3 (default: {VOCODER})")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of the stored weights (bf16)")
    parser.add_argument("--encoder", choices=("include", "reference"), default="include", help="(include)")
    parser.add_argument("--discriminators", action="store_true", help="include the vocoder's, to train on from there")
    parser.add_argument("--onnx", action="store_true", help="also write encoder.onnx and vocoder.onnx (extra onnx)")
    parser.add_argument("--push", type=text, metavar="OWNER/NAME", help="upload it to the hub, with a model card")
    parser.add_argument(
        "--license", type=text, metavar="ID", help="of the bundle, by the hub's names; imported weights may bring one"
    )
    parser.add_argument("--results", type=path, metavar="FILE", help="evaluate_table.csv, for the model card")
    parser.add_argument("--private", action="store_true", help="make a new repository on the hub private")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the bundle and print its files with their sizes."""
    if arguments.folder.exists():
        raise FileExistsError(f"{arguments.folder}: exists; should be a new folder")

    from miipher2.config.paths import ROOT, check_output, folder_or_hub_name

    check_output(arguments.folder)
    push, figures = _check_push(arguments)

    from miipher2.inference.bundle import DISCRIMINATORS, save_bundle
    from miipher2.inference.weights import load_published
    from miipher2.models.pretrained import find_weights

    named = (arguments.adapter or ROOT / ADAPTER), (arguments.vocoder or ROOT / VOCODER)
    adapter, vocoder = (find_weights(str(each), Path()).absolute() for each in named)
    weights = load_published(adapter, vocoder, ROOT)
    discriminators = vocoder / DISCRIMINATORS if arguments.discriminators else None
    if discriminators is not None and not discriminators.is_file():
        raise FileNotFoundError(
            f"{discriminators}: missing; leave out --discriminators, or name a vocoder that has some"
        )
    if arguments.onnx:
        from miipher2.inference.onnx_export import check_exportable, export_graphs

        check_exportable(weights)  # before anything is written
    card = None if push is None else _make_card(arguments, weights, figures)
    encoder = str(folder_or_hub_name(weights.settings["hubert_model_name"], ROOT))
    save_bundle(
        weights,
        arguments.folder,
        precision=arguments.precision,
        encoder_from=encoder if arguments.encoder == "include" else None,
        discriminators=discriminators,
    )
    if arguments.onnx:
        export_graphs(weights, arguments.folder)
    if card is not None:
        (arguments.folder / "README.md").write_text(card)
    for file in sorted(each for each in arguments.folder.rglob("*") if each.is_file()):
        sys.stdout.write(f"{file.stat().st_size / 1e6:8.1f} MB  {file}\n")
    if push is not None:
        url, commit = push.upload(arguments.folder)
        sys.stdout.write(f"pushed to {url}\nrestore with --bundle {push.repository}@{commit}\n")
    return 0


def _check_push(arguments: argparse.Namespace) -> "tuple[Push | None, str | None]":
    """Return where to push, and the figures for the model card, after what can be checked before reading weights."""
    if arguments.push is None:
        for option in ("license", "results", "private"):
            if getattr(arguments, option):
                raise ValueError(f"--{option}: is for the hub; should come with --push owner/name")
        return None, None

    from miipher2.inference.hub import Push

    figures = None
    if arguments.results is not None:
        from miipher2.evaluation.markdown import format_table

        figures = format_table(arguments.results)
    push = Push(arguments.push, arguments.private)
    push.check()
    return push, figures


def _make_card(arguments: argparse.Namespace, weights: "Weights", figures: str | None) -> str:
    from miipher2.inference.hub import choose_licence, make_card

    licence = choose_licence(arguments.license, weights.lineage)
    return make_card(
        weights, arguments.push, licence, figures, precision=arguments.precision, encoder=arguments.encoder
    )
