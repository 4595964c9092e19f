"""What an update costs: every stage at full size with random weights, against the same work in its common form.

    uv run benchmarks/train_step.py                      two cores: some ten minutes
    uv run benchmarks/train_step.py --device cuda        batch 16, and what determinism costs
    uv run benchmarks/train_step.py --stages adapter --batch-size 2 --steps 3 precision=fp32

Speed and data wait are of our form, fed by the real loader from the embedded speech (uv run stages/prepare_data.py
before). The ratio is of both forms in turn on one batch: of seconds on CUDA, of processor time on the CPU, which other
work on the machine hardly changes.
Each stage runs in a process of its own: its peak memory is its own, and read before the common form is built.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from common_form import common_form
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig, HubertModel

from miipher2.config.load import load_config
from miipher2.config.params import compose_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import SCHEMAS
from miipher2.data.dataloader import make_batches
from miipher2.data.prepared import PreparedData
from miipher2.models.precision import choose_precision, set_tf32
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.training.environment import start_runtime

STAGES: dict[str, tuple[str, str, Any]] = {
    "adapter": ("train_adapter", "adapter_layer_6_mhubert_147", AdapterRecipe),
    "pretrain": ("pre_train_vocoder", "hifigan_pretrain_layer_6_mhubert_147", VocoderRecipe),
    "finetune": ("finetune_vocoder", "hifigan_ft_layer_6_mhubert_147", VocoderRecipe),
    "vocos": ("pre_train_vocoder", "vocos_pretrain_layer_6_mhubert_147", VocoderRecipe),
}


def main() -> None:
    """Measure the stages, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--batch-size", type=int, help="examples (default 2 on the CPU, 16 on CUDA)")
    parser.add_argument("--steps", type=int, help="updates that are timed (default 4 on the CPU, 50 on CUDA)")
    parser.add_argument("--workers", type=int, help="of the loader (default 1 on the CPU, 8 on CUDA)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: one for each core)")
    parser.add_argument("--encoder", type=Path, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    on_cuda = options.device.startswith("cuda")
    for name, small, large in (("batch_size", 2, 16), ("steps", 4, 50), ("workers", 1, 8)):
        if getattr(options, name) is None:
            setattr(options, name, large if on_cuda else small)
    if options.encoder is not None:
        measure(options, overrides)
        return
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        torch.manual_seed(0)
        HubertModel(HubertConfig()).save_pretrained(folder)  # of mHuBERT-147's shape
        for stage in options.stages:
            numbers = [
                f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("batch_size", "steps", "workers")
            ]
            command = [sys.executable, __file__, "--stages", stage, "--encoder", folder, "--device", options.device]
            numbers += [] if options.threads is None else [f"--threads={options.threads}"]
            subprocess.run([*command, *numbers, *overrides], check=True, cwd=ROOT)


def measure(options: argparse.Namespace, overrides: list[str]) -> None:
    """Print the figures of one stage."""
    device = start_runtime(options.device, True, options.threads)
    config, recipe = ours(options, overrides, device)
    batches, _ = make_batches(config, PreparedData.read(ROOT, config.data.prepared))
    first = next(iter(batches(0, 1)))
    warm_up = 3 if device.type == "cpu" else 10
    for step in range(warm_up):
        recipe.update(first, step)
    with FlopCounterMode(display=False) as counter:
        recipe.update(first, 0)
    work = counter.get_total_flops()
    reset_peak(device)
    update_seconds, wait_share = fed(recipe, batches(0, options.steps + 1), device)
    peak = peak_gigabytes(device)
    rate = matmul_rate(device, torch.bfloat16 if config.precision == "bf16" else torch.float32)
    audio = options.batch_size * config.data.crop_seconds
    print(f"{config.name}: {describe(device)}, {config.precision}")
    print(f"  batch {options.batch_size} x {config.data.crop_seconds} s, work {work / 1e12:.3g} TFLOP an update")
    print(f"  updates a second {1 / update_seconds:.3g}, audio-seconds a second {audio / update_seconds:.3g}")
    print(f"  {work / update_seconds / rate:.0%} of the rate of matrix products, {rate / 1e12:.3g} TFLOP/s")
    print(f"  waiting for data {wait_share:.1%}, peak memory {peak:.2f} GB")
    common = common_form(config, options.encoder, device)
    times = in_turn(
        {"ours": lambda: recipe.update(first, 0), "common": lambda: common.update(first, 0)}, options.steps, device
    )
    print(f"  the common form takes {times['common'] / times['ours']:.2f} times as long")
    if device.type == "cuda":
        times = in_turn(
            {mode: in_mode(recipe, first, mode) for mode in ("free", "deterministic")}, options.steps, device
        )
        print(f"  determinism takes {times['deterministic'] / times['free']:.3f} times as long")


def ours(options: argparse.Namespace, overrides: list[str], device: torch.device) -> tuple[Any, Any]:
    """Return a stage's configuration at full size and its recipe, from its first update on adversarial."""
    stage, name, recipe = STAGES[options.stages[0]]
    settings = [f"model.hubert_model_name={options.encoder}", "model.hubert_revision=null"]
    settings += [f"batch_size={options.batch_size}", f"loader.num_workers={options.workers}"]
    settings += ["data.prepared=data/prepared/embedded"]
    if recipe is VocoderRecipe:
        settings += ["loss.adversarial_from_step=0", "init_from.adapter=null", "init_from.vocoder=null"]
    config: Any = load_config(compose_config(name, [*settings, *overrides], group=stage), stage, SCHEMAS[stage])
    config = replace(config, precision=choose_precision(config.precision, device))
    set_tf32(config.precision)
    return config, recipe.from_config(config, device, ROOT)


def fed(recipe: Any, batches: Any, device: torch.device) -> tuple[float, float]:
    """Return the seconds of an update, and the share of the time in which it waited for a batch."""
    batches = iter(batches)
    recipe.update(next(batches), 0)  # workers start here
    synchronize(device)
    waited, count, start = 0.0, 0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        waited += time.perf_counter() - asked
        recipe.update(batch, count)
        count += 1
    synchronize(device)
    passed = time.perf_counter() - start
    return passed / count, waited / passed


def in_turn(actions: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each action, one after the other in every round, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    several = 10 if device.type == "cuda" else 1  # what one update leaves behind on the device is another's to hide
    for _ in range(repeats // several + 1):
        for name, action in actions.items():
            synchronize(device)
            start = clock()
            for _ in range(several):
                action()
            synchronize(device)
            times[name].append((clock() - start) / several)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def in_mode(recipe: Any, batch: Any, mode: str) -> Callable[[], None]:
    """Return what makes an update with deterministic algorithms, or with whichever are fastest."""

    def update() -> None:
        torch.use_deterministic_algorithms(mode == "deterministic")
        torch.backends.cudnn.benchmark = mode == "free"
        recipe.update(batch, 0)

    return update


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of the best of some large matrix products: the roofline of compute."""
    size = 2048 if device.type == "cpu" else 8192
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        one @ other
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: torch.device) -> None:
    """Begin to measure memory; the peak of a process on the CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes(device: torch.device) -> float:
    """Return the most that was allocated on the device, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def describe(device: torch.device) -> str:
    """Return what the figures depend on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    amx = " with AMX" if torch.cpu._is_amx_tile_supported() else ""
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} CPU cores"
    return f"{threads}, {torch.backends.cpu.get_cpu_capability()}{amx}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
