"""`miipher2 export`: one folder with all that restoring needs, and the networks as ONNX graphs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from miipher2.cli.arguments import path
from miipher2.cli.restore import ADAPTER, VOCODER

EXPORT = """\
Write a bundle: weights, settings and lineage in one folder, for `miipher2 restore --bundle` and `Restorer.from_bundle`.
With the encoder included, a bundle needs nothing else; with --encoder reference it refers to the encoder by name.

examples:
  miipher2 export bundle/ --precision bf16
  miipher2 export bundle/ --encoder reference --onnx
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
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the bundle and print its files with their sizes."""
    if arguments.folder.exists():
        raise FileExistsError(f"{arguments.folder}: exists; should be a new folder")

    from miipher2.config.paths import ROOT, check_output, folder_or_hub_name

    check_output(arguments.folder)

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
    for file in sorted(each for each in arguments.folder.rglob("*") if each.is_file()):
        sys.stdout.write(f"{file.stat().st_size / 1e6:8.1f} MB  {file}\n")
    return 0
