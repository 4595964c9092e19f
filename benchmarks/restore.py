"""Cost of restoring at full size, with random weights: real-time factor, peak memory, share of each part.

    uv run benchmarks/restore.py [--seconds 60] [--device cpu] [--precisions fp32 bf16] [--batch-sizes 1 8]
                                 [--generators hifigan vocos]

HuBERT-base's shape cut at layer 6, adapters of 768, HiFi-GAN V1 or Vocos at 24 kHz; from WAV to WAV. The real-time
factor depends on the machine and its load; beside it are the factor that the counted operations would have at the rate
of a large matrix product, measured just before and after, and the ratio of the two. On a GPU the shares of encoder and
vocoder are the time in which the host queues them. Each case runs in a process of its own, for its peak memory.
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
from miipher2.inference.files import Task
from miipher2.inference.restorer import Restorer
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
                    figures = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                    print(f"{generator} {describe(figures)}", flush=True)


def describe(figures: dict[str, Any]) -> str:
    """Return the figures of a case as one line."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in figures["shares"].items())
    case = f"{figures['precision']} batch {figures['batch_size']}, {figures['gflop']:.1f} GFLOP for a second of audio"
    return (
        f"{case}: real-time factor {figures['factor']:.3f}, roofline {figures['roofline']:.3f}, "
        f"ratio {figures['factor'] / figures['roofline']:.2f}; peak {figures['peak_mb']:.0f} MB; {shares}"
    )


def make_bundle(folder: Path, name: str) -> None:
    """Write full-size networks with random weights."""
    torch.manual_seed(0)
    HubertModel(HubertConfig(num_hidden_layers=6)).save_pretrained(folder / "hubert")
    encoder = load_encoder(folder / "hubert", 6)
    encoder.add_adapters(768)
    numbers = {"kind": name, **GENERATORS[name]}
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
    """Restore a recording and return the figures."""
    restorer = Restorer.from_bundle(
        f"{folder}/fp32",
        device=device,
        precision=precision,
        batch_size=batch_size,
        chunk_seconds=chunk_seconds,
    )
    # Warm up with a whole window and chunk: the first use of each shape is slow.
    restorer((0.1 * stream(0, "warm").standard_normal(16_000 * 30)).astype(np.float32), 16_000)
    source, target = Path(folder) / "in.wav", Path(folder) / "out.wav"
    samples = round(seconds * 44_100)
    with RecordingWriter(source, 44_100, 1, samples) as writer:
        writer.write(stream(0, "in").uniform(-0.5, 0.5, (1, samples)).astype(np.float32))
    spent_seconds: dict[str, float] = {}
    networks = restorer.networks
    networks.encode = timed(networks.encode, "encoder", spent_seconds)  # type: ignore[method-assign]
    networks.vocode = timed(networks.vocode, "vocoder", spent_seconds)  # type: ignore[method-assign]
    job = Job(restorer, None)
    job._open = timed(job._open, "first reading", spent_seconds)  # type: ignore[method-assign]
    job._write = timed(job._write, "writing", spent_seconds)  # type: ignore[method-assign]
    operations = count_operations(restorer)
    before = matrix_flops(device, precision)
    start = time.perf_counter()
    outcome = job.run([Task(source, target, "out.wav")])
    seconds_taken = time.perf_counter() - start
    assert not outcome.failed, outcome.failed
    rate = (before + matrix_flops(device, precision)) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "precision": precision,
        "batch_size": batch_size,
        "factor": seconds_taken / seconds,
        "roofline": operations / rate,
        "gflop": operations / 1e9,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else peak,
        "shares": {name: value / seconds_taken for name, value in spent_seconds.items()},
    }


def count_operations(restorer: Restorer) -> float:
    """Return the operations for one second of audio, without overlaps and context."""
    wave = torch.zeros(1, 16_000 * 20, device=restorer.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        restorer.vocoder(restorer.encoder(wave, adapted=True))
    return counter.get_total_flops() / 20


def timed(function: Callable[..., Any], name: str, spent_seconds: dict[str, float]) -> Callable[..., Any]:
    """Return the function, which adds its duration to `spent_seconds[name]`."""

    def run(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent_seconds[name] = spent_seconds.get(name, 0.0) + time.perf_counter() - start

    return run


def matrix_flops(device: str, precision: str) -> float:
    """Return the rate of a product of large matrices, in operations per second."""
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
