"""One process against several that divide the same batch: updates a second of the adapter stage, as a ratio.

    uv run benchmarks/scaling.py [--ranks 2] [--config adapter_mini] [--updates 20]

On GPUs each rank has its own; on a CPU each has one thread, and the one process that it is compared with too.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch.multiprocessing.spawn import start_processes

from miipher2 import rng
from miipher2.config.load import load_config
from miipher2.config.params import compose_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import AdapterConfig
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.training import distributed
from miipher2.training.environment import start_runtime


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count() or 2)
    parser.add_argument("--config", default="adapter_mini", help="of configs/train_adapter (default adapter_mini)")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    alone, together = [], []
    for _ in range(options.repeats):  # by turns, so that what else the machine does hits both
        alone.append(measure(1, options))
        together.append(measure(options.ranks, options))
    one, several = statistics.median(alone), statistics.median(together)
    print(
        f"{options.config}: 1 process {one:.2f} updates/s, {options.ranks} ranks {several:.2f} updates/s, "
        f"ratio {several / one:.2f} of {options.ranks}"
    )


def measure(count: int, options: argparse.Namespace) -> float:
    """Return the updates a second of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results: Any = multiprocessing.get_context("spawn").SimpleQueue()
    start_processes(work, (count, port, options, results), nprocs=count)
    return results.get()


def work(rank: int, count: int, port: int, options: argparse.Namespace, results: Any) -> None:
    """Be one of the processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    composed = compose_config(options.config, ["runtime.threads=1", "precision=bf16"], group="train_adapter")
    config = load_config(composed, "train_adapter", AdapterConfig)
    device = start_runtime("auto", True, 1, rank)
    distributed.init(device)
    rng.seed_all(0)
    recipe = AdapterRecipe.from_config(config, device, ROOT)
    frames = round(config.data.crop_seconds * 50)
    waves = torch.randn(config.batch_size // count, frames * 320) * 0.1
    batch = {"clean": waves, "degraded": waves + 0.01, "valid_frames": torch.full((len(waves),), frames)}
    for step in range(3):
        float(recipe.update(batch, step)["adapter/loss"])
    distributed.barrier()
    start = time.perf_counter()
    for step in range(3, 3 + options.updates):
        metrics = recipe.update(batch, step)
    float(metrics["adapter/loss"])
    distributed.barrier()
    if rank == 0:
        results.put(options.updates / (time.perf_counter() - start))
    distributed.destroy()


if __name__ == "__main__":
    main()
