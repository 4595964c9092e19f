"""What resuming costs: saving against a plain write and against training, starting at a late step, an adapter's size.

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
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from transformers import HubertConfig, HubertModel

from miipher2.config.load import load_config
from miipher2.config.params import compose_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import SCHEMAS
from miipher2.data.dataloader import make_batches
from miipher2.data.prepared import PreparedData
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.training import checkpoint
from miipher2.training.checkpoint import Checkpoint


def main() -> None:
    """Print the four figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the state that is saved (default 1000)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        measure_save(Path(folder), options.megabytes, options.repeats)
        measure_share(Path(folder))
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
    content = checkpoint_of({"model": tensors})
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


def measure_share(folder: Path) -> None:
    """Compare what a save of the full-size vocoder delays with the updates between two, on CUDA where there is some."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = composed_vocoder(folder)
    recipe = VocoderRecipe.from_config(config, device, ROOT)
    frames = round(config.data.crop_seconds * 50)
    waves = torch.randn(config.batch_size, frames * 320) * 0.1
    batch = {
        "clean": waves,
        "degraded": waves,
        "target": torch.randn(len(waves), frames * config.model.sample_rate_hz // 50) * 0.1,
    }
    batch |= {
        "valid_frames": torch.full((len(waves),), frames),
        "utterance": torch.arange(len(waves)),
        "segment_start": torch.zeros(len(waves), dtype=torch.int64),
    }

    def update() -> None:
        float(recipe.update(batch, 10**6)["generator/loss"])

    update()
    one = seconds(update, 3)
    state = checkpoint_of(recipe.state_dict())
    save = seconds(lambda: checkpoint.save(folder, state, {}).unlink(), 3)
    copy = seconds(lambda: checkpoint.copy_to_host(recipe.state_dict()), 3)
    interval = config.checkpoint.save_interval
    size = checkpoint.size_of(state.as_dict()) / 1e6
    print(
        f"save of the full-size vocoder on {device}: {size:.0f} MB in {save:.2f} s, an update takes {one:.2f} s; "
        f"training waits for the copy, {copy:.2f} s: {copy / (copy + interval * one):.3%} at the default interval"
    )


def measure_start(repeats: int) -> None:
    """Compare the time to the first batch at step 10 and at step 1,000,000."""
    config = composed("adapter_mini", "loader.num_workers=0")
    data = PreparedData.read(ROOT, config.data.prepared)

    def first_batch(step: int) -> None:
        batches, _ = make_batches(config, data)
        next(iter(batches(step, step + 1)))

    first_batch(0)
    early, late = (seconds(partial(first_batch, step), repeats * 3) for step in (10, 1_000_000))
    print(f"start to first batch: step 10 {early:.3f} s, step 1,000,000 {late:.3f} s, ratio {late / early:.2f}")


def measure_size(folder: Path) -> None:
    """Save the adapter of layer 6 at full size, with its optimizer's state."""
    torch.manual_seed(0)
    config = composed("adapter_layer_6_mhubert_147", f"model.hubert_model_name={hubert(folder)}", "precision=fp32")
    recipe = AdapterRecipe.from_config(config, torch.device("cpu"), ROOT)
    wave = torch.randn(1, 6400) * 0.1
    recipe.update({"clean": wave, "degraded": wave + 0.01, "valid_frames": torch.tensor([20])}, 0)
    path = checkpoint.save(folder, checkpoint_of(recipe.state_dict()), {})
    print(f"adapter checkpoint, layer 6 at full size: {path.stat().st_size / 1e6:.1f} MB")


def checkpoint_of(state: dict[str, Any]) -> Checkpoint:
    """Return a checkpoint with a recipe's state and otherwise empty entries."""
    empty: dict[str, Any] = {"stage": "", "step": 0, "run_id": "", "wandb": None, "history": "", "best": None}
    empty |= {"parents": [], "data_sha256": ""}
    names = set(Checkpoint.entries()) - {"format"}
    return Checkpoint(**{name: {} for name in names} | empty | state)


def hubert(folder: Path) -> Path:
    """Return a folder with an encoder of mHuBERT-147's shape, cut at layer 6."""
    if not (folder / "hubert").exists():
        HubertModel(HubertConfig(num_hidden_layers=6)).save_pretrained(folder / "hubert")
    return folder / "hubert"


def composed_vocoder(folder: Path) -> Any:
    """Return the configuration of the vocoder's pre-training at full size."""
    name = "hifigan_pretrain_layer_6_mhubert_147"
    return composed(name, f"model.hubert_model_name={hubert(folder)}", stage="pre_train_vocoder")


def composed(name: str, *overrides: str, stage: str = "train_adapter") -> Any:
    """Return the configuration of a stage."""
    return load_config(compose_config(name, overrides, group=stage), stage, SCHEMAS[stage])


if __name__ == "__main__":
    main()
