"""What restoring costs at full size, with random weights: real-time factor, peak memory, share of each part.

    uv run benchmarks/restore.py [--seconds 60] [--device cpu] [--precisions fp32 bf16] [--batch-sizes 1 8]
                                 [--generators hifigan vocos]

HuBERT-base's shape cut at layer 6, adapters of 768, HiFi-GAN V1 or Vocos at 24 kHz; a WAV in, a WAV out. The real-time
factor is this machine's, under whatever else it does; beside it stands the factor that the counted work would have at
the rate of a large matrix product measured just before and just after, and the ratio of the two. Each case is a process
of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig, HubertModel

from miipher2.audio.stream import RecordingWriter
from miipher2.inference.batch_job import Job
from miipher2.inference.bundle import save_bundle
from miipher2.inference.journal import Task
from miipher2.inference.restorer import Options, Restorer
from miipher2.inference.weights import Vocoder, Weights
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.vocoder.registry import build_generator
from miipher2.rng import stream

RATE_HZ = 24_000
GENERATORS: dict[str, dict[str, Any]] = {
    "hifigan": {"channels": 512, "upsample_factors": [8, 5, 4, 3], "kernels": [3, 7, 11], "dilations": [1, 3, 5]},
    "vocos": {"channels": 512, "hidden_channels": 1536, "blocks": 8, "window_frames": 4},
}


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--generators", nargs="+", choices=GENERATORS, default=[*GENERATORS])
    parser.add_argument("--chunk-seconds", type=float, default=10.0)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(**json.loads(options.case))))
        return
    for generator in options.generators:
        with tempfile.TemporaryDirectory() as folder:
            make_bundle(Path(folder), generator)
            bundle = sum(path.stat().st_size for path in (Path(folder) / "bf16").rglob("*"))
            print(f"{generator}: bundle in bf16, beside the encoder: {bundle / 1e6:.1f} MB")
            for precision in options.precisions:
                for batch_size in options.batch_sizes:
                    case = {"folder": folder, "precision": precision, "batch_size": batch_size}
                    case |= {"seconds": options.seconds, "device": options.device}
                    case |= {"chunk_seconds": options.chunk_seconds}
                    command = [sys.executable, __file__, "--case", json.dumps(case)]
                    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                    print(f"{generator} {describe(found)}", flush=True)


def describe(found: dict[str, Any]) -> str:
    """Return a line."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
    case = f"{found['precision']} batch {found['batch_size']}, {found['gflop']:.1f} GFLOP for a second of audio"
    return (
        f"{case}: real-time factor {found['factor']:.3f}, roofline {found['roofline']:.3f}, "
        f"ratio {found['factor'] / found['roofline']:.2f}; peak {found['peak_mb']:.0f} MB; {shares}"
    )


def make_bundle(folder: Path, kind: str) -> None:
    """Write full-size networks with random weights."""
    torch.manual_seed(0)
    HubertModel(HubertConfig(num_hidden_layers=6)).save_pretrained(folder / "hubert")
    encoder = load_encoder(folder / "hubert", 6)
    encoder.add_adapters(768)
    numbers = {"kind": kind, **GENERATORS[kind]}
    generator = build_generator(dim=encoder.dim, sample_rate_hz=RATE_HZ, **numbers).remove_weight_norm().eval()
    settings = {
        "hubert_model_name": str(folder / "hubert"),
        "hubert_layer": 6,
        "hubert_revision": None,
        "adapter_hidden_dim": 768,
        "sample_rate_hz": RATE_HZ,
        "generator": numbers,
    }
    vocoder = Vocoder(FeatureNormaliser(encoder.dim), generator)
    weights = Weights(encoder, FeatureNormaliser(encoder.dim), vocoder, settings, {})
    for precision in ("fp32", "bf16"):
        save_bundle(weights, folder / precision, precision=precision, encoder_from=None)


def measure(
    folder: str, precision: str, batch_size: int, seconds: float, device: str, chunk_seconds: float
) -> dict[str, Any]:
    """Restore a recording and return figures."""
    restorer = Restorer.from_bundle(
        f"{folder}/fp32",
        device=device,
        options=Options(precision=precision),
        batch_size=batch_size,
        chunk_seconds=chunk_seconds,
    )
    # Long enough for a whole window and chunk: what is made once for each of their shapes is not in the figures.
    restorer((0.1 * stream(0, "warm").standard_normal(16_000 * 30)).astype(np.float32), 16_000)
    source, target = Path(folder) / "in.wav", Path(folder) / "out.wav"
    samples = round(seconds * 44_100)
    with RecordingWriter(source, 44_100, 1, samples) as writer:
        writer.write(stream(0, "in").uniform(-0.5, 0.5, (1, samples)).astype(np.float32))
    spent: dict[str, float] = {}
    networks = restorer._networks
    networks.encode = timed(networks.encode, "encoder", spent)  # type: ignore[method-assign]
    networks.vocode = timed(networks.vocode, "vocoder", spent)  # type: ignore[method-assign]
    job = Job(restorer, None)
    job._open = timed(job._open, "first reading", spent)  # type: ignore[method-assign]
    job._write = timed(job._write, "writing", spent)  # type: ignore[method-assign]
    operations = count_operations(restorer)
    before = matrix_flops(device, precision)
    start = time.perf_counter()
    outcome = job.run([Task(source, target, "out.wav")])
    took = time.perf_counter() - start
    assert not outcome.failed, outcome.failed
    rate = (before + matrix_flops(device, precision)) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "precision": precision,
        "batch_size": batch_size,
        "factor": took / seconds,
        "roofline": operations / rate,
        "gflop": operations / 1e9,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else peak,
        "shares": {name: value / took for name, value in spent.items()},
    }


def count_operations(restorer: Restorer) -> float:
    """Return the operations that a second of audio takes, without overlaps and halos."""
    wave = torch.zeros(1, 16_000 * 20, device=restorer.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        restorer.vocoder(restorer.encoder(wave, adapted=True))
    return counter.get_total_flops() / 20


def timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    """Return the function, adding what it takes to `spent`."""

    def run(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    return run


def matrix_flops(device: str, precision: str) -> float:
    """Return what a product of large matrices reaches, operations a second."""
    size, repeats = (2048, 12) if device == "cpu" else (8192, 20)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    if device != "cpu":
        torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
