"""`miipher2 export`: one folder with all that restoring needs, and the networks as ONNX graphs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from miipher2.cli.weights_options import ADAPTER, VOCODER

EXPORT = """\
Write a bundle: weights, settings and lineage in one folder, which `miipher2 restore --bundle` and
`Restorer.from_bundle` read. With the encoder it needs nothing else; with --encoder reference it names the encoder.

examples:
  miipher2 export bundle/ --precision bf16
  miipher2 export bundle/ --encoder reference --onnx
"""


def add_parser(commands: Any) -> None:
    """Add `export` to the command line."""
    parser = commands.add_parser("export", help="write one folder that restores", description=EXPORT)
    parser.add_argument("folder", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=f"published folder of stage 1 (default: {ADAPTER})")
    parser.add_argument("--vocoder", type=Path, metavar="DIR", help=f"published folder of stage 3 (default: {VOCODER})")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of stored weights (bf16)")
    parser.add_argument("--encoder", choices=("include", "reference"), default="include", help="(include)")
    parser.add_argument("--onnx", action="store_true", help="also encoder.onnx and vocoder.onnx, float32 (extra onnx)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the bundle and say how large it is."""
    if options.folder.exists():
        raise FileExistsError(f"{options.folder}: exists; a bundle is written into a new folder")

    from miipher2.config.paths import ROOT
    from miipher2.inference.bundle import save_bundle
    from miipher2.inference.published import load_published

    adapter, vocoder = (options.adapter or ROOT / ADAPTER).absolute(), (options.vocoder or ROOT / VOCODER).absolute()
    weights = load_published(adapter, vocoder, ROOT)
    if options.onnx:  # before anything is written
        from miipher2.inference.onnx_export import check_graphs

        check_graphs(weights)
    name = weights.settings["hubert_model_name"]
    found = str(ROOT / name) if (ROOT / name).is_dir() else name
    save_bundle(
        weights,
        options.folder,
        precision=options.precision,
        encoder_from=found if options.encoder == "include" else None,
    )
    if options.onnx:
        from miipher2.inference.onnx_export import export_graphs

        export_graphs(weights, options.folder)
    for path in sorted(path for path in options.folder.rglob("*") if path.is_file()):
        sys.stdout.write(f"{path.stat().st_size / 1e6:8.1f} MB  {path}\n")
    return 0
