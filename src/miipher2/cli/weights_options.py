"""Which weights, device and precision a command restores with."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miipher2.inference.restorer import Restorer

ADAPTER, VOCODER = "exp/adapter_mini/published", "exp/hifigan_ft_mini/published"
SHIPPED = "models/mini/restorer"  # in Git: restores with no training and no download


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that restores."""
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help=f"what `miipher2 export` wrote (default: {SHIPPED}, which ships)"
    )
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=f"instead, a published stage 1 (such as {ADAPTER})")
    parser.add_argument("--vocoder", type=Path, metavar="DIR", help=f"and a published stage 3 (such as {VOCODER})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the networks (default: fp32)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="windows made at once (default: 1)")
    parser.add_argument("--chunk-seconds", type=float, default=10.0, metavar="S", help="bounds memory (default: 10)")
    parser.add_argument("--window-seconds", type=float, default=20.0, metavar="S", help="attended to at once (20)")
    parser.add_argument("--overlap-seconds", type=float, default=3.0, metavar="S", help="shared by two windows (3)")


def options_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return these options as plain values, folders absolute, for another process."""
    folders = {name: getattr(options, name) for name in ("adapter", "vocoder", "bundle")}
    if folders["bundle"] is not None and (folders["adapter"] or folders["vocoder"]):
        raise ValueError("--bundle holds adapter and vocoder; leave out --adapter and --vocoder")
    if (folders["adapter"] is None) != (folders["vocoder"] is None):
        missing, example = ("--vocoder", VOCODER) if folders["vocoder"] is None else ("--adapter", ADAPTER)
        raise ValueError(f"{missing} is missing: the two go together; such as {missing} {example}")
    plain = ("device", "precision", "batch_size", "chunk_seconds", "window_seconds", "overlap_seconds")
    return {name: folder and str(folder.absolute()) for name, folder in folders.items()} | {
        name: getattr(options, name) for name in plain
    }


def load_restorer(options: argparse.Namespace) -> "Restorer":
    """Return what the options ask for."""
    return restorer_from(**options_of(options))


def restorer_from(
    *,
    adapter: str | None,
    vocoder: str | None,
    bundle: str | None,
    device: str,
    precision: str,
    batch_size: int,
    chunk_seconds: float,
    window_seconds: float,
    overlap_seconds: float,
) -> "Restorer":
    """Return a restorer made from plain values.

    Raises:
        ValueError: a value is out of its range, or there is no such device.
    """
    import torch

    from miipher2.config.paths import ROOT
    from miipher2.inference.restorer import Options, Restorer

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: PyTorch sees no CUDA device; leave it out to use the CPU")
    settings: dict[str, Any] = {
        "device": device,
        "options": Options(precision, window_seconds, overlap_seconds),
        "batch_size": batch_size,
        "chunk_seconds": chunk_seconds,
    }
    if adapter is not None and vocoder is not None:
        return Restorer.from_published(adapter, vocoder, root=ROOT, **settings)
    return Restorer.from_bundle(bundle or ROOT / SHIPPED, root=ROOT, **settings)
