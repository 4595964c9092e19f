"""How fast examples are made: by degradation, by step, by number of workers, and whether memory stays flat.

    uv run benchmarks/loader.py [--degradation miipher2] [--examples 400] [--memory 100000] [--workers 2]

It makes speech at 24 kHz in files of 4 to 14 s, so that decoding and both resamplings count. `x real time` is seconds
of audio per second of one core's time (not of the clock, since other work may run beside). The memory run makes many
short examples and prints this process's own memory.
"""

import argparse
import functools
import gc
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from omegaconf import OmegaConf

from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.resample import resample
from miipher2.config.load import to_dataclass
from miipher2.config.paths import ROOT
from miipher2.config.schema_data import CODECS, DataConfig, DegradationConfig, PrepareDataConfig
from miipher2.data import crop_reader, pools
from miipher2.data import dataset as dataset_module
from miipher2.data.crop_reader import CropReader
from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.degradations.chain import TRANSFORMS
from miipher2.data.prepared import PreparedData
from miipher2.preparation.prepare import prepare
from miipher2.rng import stream

BATCH = 16
FILES = 240


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degradation", default="miipher2", help="a name in configs/degradation/")
    parser.add_argument("--examples", type=int, default=400, help="for each figure (default 400)")
    parser.add_argument("--memory", type=int, default=0, metavar="EXAMPLES", help="make so many and print the memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--crop-seconds", type=float, default=6.0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(Path(folder))
        config = degradation_config(OmegaConf.load(ROOT / "configs/degradation" / f"{options.degradation}.yaml"))
        make = functools.partial(make_dataset, data, Path(folder))
        time_degradations(make, config, options)
        time_steps(make, config, options)
        time_workers(make, config, options)
        if options.memory:
            watch_memory(make, config, options.memory)


def degradation_config(values: Any) -> DegradationConfig:
    """Return the degradation of some sections; the others never happen."""
    return to_dataclass(OmegaConf.merge(OmegaConf.structured(DegradationConfig), values))


def make_corpus(folder: Path) -> PreparedData:
    """Write speech-like files of random words at 24 kHz, from the embedded speech, and prepare them."""
    words = [read_audio(path) for path in sorted((ROOT / "data/embedded").rglob("*.flac"))[:60]]
    for index in range(FILES):
        rng = stream(index, "benchmark")
        wave, rate_hz = words[int(rng.integers(len(words)))]
        longer = np.resize(np.roll(wave, int(rng.integers(len(wave)))), int(rng.uniform(4, 14) * rate_hz))
        path = folder / f"speech/{index % 50:02d}/{index:04d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, resample(longer, rate_hz, 24000), 24000)
    prepare(PrepareDataConfig(source="speech", prepared="prepared", seed=0, noise_files=24, rooms=100), folder)
    return PreparedData.read(folder, "prepared")


def make_dataset(
    data: PreparedData, root: Path, degradation: DegradationConfig, crop_seconds: float, cache_mb: float = 32
) -> SpeechDataset:
    """Return training examples for a 24 kHz vocoder, with a cache that holds a tenth of the files."""
    return SpeechDataset(
        data.speech.select("train"),
        data.pools(root, "train"),
        DataConfig(crop_seconds=crop_seconds, level_db=[-32.0, -14.0]),
        degradation,
        root=root,
        seed=0,
        batch_size=BATCH,
        sample_rate_hz=24000,
        cache_mb=cache_mb,
    )


def seconds_for(examples: SpeechDataset, count: int) -> float:
    """Return the processor time of `count` examples."""
    start = time.process_time()
    for number in range(BATCH, BATCH + count):
        examples[divmod(number, BATCH)]
    return time.process_time() - start


def warm(examples: SpeechDataset) -> SpeechDataset:
    """Make some examples first, so that caches are filled."""
    for number in range(BATCH):
        examples[divmod(number, BATCH)]
    return examples


def time_degradations(
    make: Callable[..., SpeechDataset], config: DegradationConfig, options: argparse.Namespace
) -> None:
    """Print the speed of the whole chain, of no degradation, and of each transform always."""
    print(f"crops of {options.crop_seconds} s; one worker; {options.examples} examples each")
    print(f"{'degradation':20} {'examples/s':>10} {'x real time':>12} {'ms more than none':>18}")
    configs = {"none": DegradationConfig(), options.degradation: config}
    for name in TRANSFORMS:
        configs[name] = replace(DegradationConfig(), **{name: replace(getattr(config, name), probability=1.0)})
    for codec in CODECS:
        section = replace(config.codec, probability=1.0, kinds=[codec])
        configs[f"codec {codec}"] = replace(DegradationConfig(), codec=section)
    none = 0.0
    for name, degradation in configs.items():
        seconds = seconds_for(warm(make(degradation, options.crop_seconds)), options.examples) / options.examples
        none = seconds if name == "none" else none
        row = f"{name:20} {1 / seconds:10.1f} {options.crop_seconds / seconds:12.0f} {(seconds - none) * 1000:18.2f}"
        print(row, flush=True)


@contextmanager
def timed(shares: dict[str, float], *targets: tuple[Any, str, str]) -> Iterator[None]:
    """Add up the processor time spent inside functions, without that inside other listed ones."""
    running: list[list[float]] = []

    def wrap(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            running.append([time.process_time(), 0.0])
            try:
                return function(*arguments, **named)
            finally:
                begin, inner = running.pop()
                spent = time.process_time() - begin
                shares[name] += spent - inner
                if running:
                    running[-1][1] += spent

        return wrapped

    originals = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in targets]
    for owner, attribute, name in targets:
        setattr(owner, attribute, wrap(getattr(owner, attribute), name))
    try:
        yield
    finally:
        for owner, attribute, function in originals:
            setattr(owner, attribute, function)


def time_steps(make: Callable[..., SpeechDataset], config: DegradationConfig, options: argparse.Namespace) -> None:
    """Print where the time of the chain goes."""
    shares: dict[str, float] = defaultdict(float)
    examples = warm(make(config, options.crop_seconds))
    targets = [
        (crop_reader, "read_audio", "read and decode"),
        (pools, "read_audio", "read and decode"),
        (crop_reader, "resample", "resample"),
        (pools, "resample", "resample"),
        (CropReader, "_check_content", "digest"),
        (pools, "sha256_of", "digest"),
        (dataset_module, "draw", "draw"),
        (dataset_module, "apply", "rest of apply"),
        *((transform, "apply", f"apply {name}") for name, transform in TRANSFORMS.items()),
    ]
    with timed(shares, *targets):
        total = seconds_for(examples, options.examples)
    shares["rest"] = total - sum(shares.values())
    print(f"\nshare of the time of {options.degradation}, each without the others listed")
    for name, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        if abs(seconds) > 0.002 * total:
            print(f"{name:20} {100 * seconds / total:5.1f} %")


def time_workers(make: Callable[..., SpeechDataset], config: DegradationConfig, options: argparse.Namespace) -> None:
    """Print the speed by the clock with workers, which depends on what else the machine does."""
    steps = max(2, options.examples // BATCH)
    for workers in range(options.workers + 1):
        examples = make(config, options.crop_seconds)
        loader = make_dataloader(examples, start_step=0, stop_step=steps, num_workers=workers)
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        count = sum(len(batch["clean"]) for batch in batches)
        speed = count / (time.perf_counter() - start)
        print(f"{workers} workers: {speed:.1f} examples/s, {speed * options.crop_seconds:.0f} x real time by the clock")


def watch_memory(make: Callable[..., SpeechDataset], config: DegradationConfig, count: int) -> None:
    """Print this process's own memory while it makes many short examples."""
    examples = make(config, 0.2, cache_mb=8)
    print(f"\nmemory over {count} examples of 0.2 s")
    first = 0.0
    for number in range(count + 1):
        if number % max(1, count // 10) == 0:
            gc.collect()
            held = own_mb()
            # Filters, responses and the allocator are warm after a tenth.
            first = held if number <= count // 10 else first
            print(f"{number:8} examples: {held:.1f} MB, {held - first:+.1f}", flush=True)
        examples[divmod(number, BATCH)]


def own_mb() -> float:
    """Return this process's own memory, without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


if __name__ == "__main__":
    main()
