"""What resuming costs: saving against a plain write, starting at a late step, and the size of an adapter's checkpoint.

    uv run benchmarks/checkpoint.py [--megabytes 1000]

Every figure is a ratio within one run, or a size; the seconds beside them are this machine's.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from transformers import HubertConfig, HubertModel

from miipher2.config import ROOT, stage_config
from miipher2.data.prepared import Prepared
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.stage import make_batches
from miipher2.training import checkpoint


def main() -> None:
    """Print the three figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the state that is saved (default 1000)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        measure_save(Path(folder), options.megabytes, options.repeats)
        measure_start(options.repeats)
        measure_size(Path(folder))


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the median time of an action."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_save(folder: Path, megabytes: int, repeats: int) -> None:
    """Compare a durable, hashed save with a plain write and fsync of as many bytes."""
    tensors = {f"layer_{index}": torch.randn(2**18) for index in range(megabytes)}
    content = empty() | {"model": tensors}
    data = os.urandom(2**20) * megabytes

    def plain() -> None:
        with (folder / "plain").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def durable() -> None:
        checkpoint.save(folder, content, {}).unlink()

    pairs = [(seconds(plain, 1), seconds(durable, 1)) for _ in range(repeats)]
    writes, saves = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"save of {megabytes} MB: {saves:.2f} s, plain write and fsync {writes:.2f} s, ratio {saves / writes:.2f}")


def measure_start(repeats: int) -> None:
    """Compare the time to the first batch at step 10 and at step 1,000,000."""
    config = composed("adapter_mini", "loader.num_workers=0")
    data = Prepared.read(ROOT, config.data.prepared)

    def first_batch(step: int) -> None:
        batches, _ = make_batches(config, data)
        next(iter(batches(step, step + 1)))

    first_batch(0)
    early, late = (seconds(lambda step=step: first_batch(step), repeats * 3) for step in (10, 1_000_000))
    print(f"start to first batch: step 10 {early:.3f} s, step 1,000,000 {late:.3f} s, ratio {late / early:.2f}")


def measure_size(folder: Path) -> None:
    """Save the adapter of layer 6 at full size, with its optimizer's state."""
    torch.manual_seed(0)
    HubertModel(HubertConfig(num_hidden_layers=6)).save_pretrained(folder / "hubert")  # as mHuBERT-147, cut
    config = composed("adapter_layer_6_mhubert_147", f"model.hubert_model_name={folder / 'hubert'}", "precision=fp32")
    recipe = AdapterRecipe.from_config(config, torch.device("cpu"), ROOT)
    wave = torch.randn(1, 6400) * 0.1
    recipe.update({"clean": wave, "degraded": wave + 0.01, "valid_frames": torch.tensor([20])}, 0)
    path = checkpoint.save(folder, empty() | recipe.state_dict(), {})
    print(f"adapter checkpoint, layer 6 at full size: {path.stat().st_size / 1e6:.1f} MB")


def empty() -> dict[str, Any]:
    """Return a checkpoint's content with nothing in it."""
    return {entry: types[0]() for entry, types in checkpoint.ENTRIES.items()} | {"format": checkpoint.FORMAT}


def composed(name: str, *overrides: str) -> Any:
    """Return a configuration of the adapter stage."""
    Plugins.instance()
    with initialize_config_dir(str(ROOT / "configs" / "train_adapter"), version_base="1.3"):
        return stage_config(compose(name, overrides=list(overrides)), "train_adapter")


if __name__ == "__main__":
    main()
