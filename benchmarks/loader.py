"""How fast examples are made: by degradation, by step of the work, by worker, and whether memory stays flat.

    uv run benchmarks/loader.py [--degradation miipher2] [--examples 400] [--memory 100000] [--workers 2]

Speech of 24 kHz in files of 4 to 14 s is made for it, so that decoding and both resamplings count. `x real time` is
seconds of audio made in a second of one core's time (not of the clock: other work may run beside). The memory run makes
as many examples as asked for, short ones, and prints this process's own memory along the way.
"""

import argparse
import functools
import gc
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from omegaconf import OmegaConf

from miipher2.audio import codecs
from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.config.schema_data import DegradationConfig
from miipher2.data import dataset as examples_module
from miipher2.data import pools as pools_module
from miipher2.data.crop_reader import CropReader
from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.degradations.chain import KINDS
from miipher2.data.prepared import Prepared
from miipher2.preparation.prepare import prepare
from miipher2.rng import stream

BATCH = 16
FILES = 240


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degradation", default="miipher2", help="a name in configs/degradation/")
    parser.add_argument("--examples", type=int, default=400, help="for each figure (default 400)")
    parser.add_argument("--memory", type=int, default=0, metavar="EXAMPLES", help="make so many and watch the memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--crop-seconds", type=float, default=6.0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(Path(folder))
        settings: Any = OmegaConf.to_container(
            OmegaConf.merge(
                OmegaConf.structured(DegradationConfig),
                OmegaConf.load(ROOT / "configs/degradation" / f"{options.degradation}.yaml"),
            )
        )
        make = functools.partial(make_dataset, data, Path(folder))
        by_degradation(make, settings, options)
        by_step(make, settings, options)
        by_workers(make, settings, options)
        if options.memory:
            watch_memory(make, settings, options.memory)


def make_corpus(folder: Path) -> Prepared:
    """Make speech-like files of random words at 24 kHz, from the embedded speech."""
    words = [read_audio(path) for path in sorted((ROOT / "data/embedded").rglob("*.flac"))[:60]]
    for index in range(FILES):
        rng = stream(index, "benchmark")
        wave, rate_hz = words[int(rng.integers(len(words)))]
        longer = np.resize(np.roll(wave, int(rng.integers(len(wave)))), int(rng.uniform(4, 14) * rate_hz))
        path = folder / f"speech/{index % 50:02d}/{index:04d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, resample(longer, rate_hz, 24000), 24000)
    prepare(folder / "speech", folder / "prepared", root=folder, seed=0, noise_files=24, rooms=100)
    return Prepared.read(folder, "prepared")


def make_dataset(
    data: Prepared, root: Path, degradation: Any, crop_seconds: float, cache_mb: float = 32
) -> SpeechDataset:
    """Return training examples for a 24 kHz vocoder, with a memory that holds a tenth of the files."""
    return SpeechDataset(
        data.speech.select("train"),
        data.pools(root, "train"),
        degradation,
        root=root,
        seed=0,
        batch_size=BATCH,
        crop_seconds=crop_seconds,
        sample_rate_hz=24000,
        level_db=(-32, -14),
        cache_mb=cache_mb,
    )


def seconds_for(examples: SpeechDataset, count: int) -> float:
    """Return the processor time of so many examples."""
    start = time.process_time()
    for number in range(BATCH, BATCH + count):
        examples[divmod(number, BATCH)]
    return time.process_time() - start


def warm(examples: SpeechDataset) -> SpeechDataset:
    """Return the examples after making some, so that what is made once is there."""
    for number in range(BATCH):
        examples[divmod(number, BATCH)]
    return examples


def by_degradation(make: Callable[..., SpeechDataset], settings: Any, options: argparse.Namespace) -> None:
    """Print the speed of the chain, of none, and of each kind always."""
    print(f"crops of {options.crop_seconds} s; one worker; {options.examples} examples each")
    print(f"{'degradation':20} {'examples/s':>10} {'x real time':>12} {'ms more than none':>18}")
    chosen = {"none": None, options.degradation: settings}
    for name in KINDS:
        chosen[name] = {name: {**settings[name], "probability": 1.0}}
    for codec in codecs.CODECS:
        chosen[f"codec {codec}"] = {"codec": {**settings["codec"], "probability": 1.0, "kinds": [codec]}}
    none = 0.0
    for name, degradation in chosen.items():
        seconds = seconds_for(warm(make(degradation, options.crop_seconds)), options.examples) / options.examples
        none = seconds if name == "none" else none
        row = f"{name:20} {1 / seconds:10.1f} {options.crop_seconds / seconds:12.0f} {(seconds - none) * 1000:18.2f}"
        print(row, flush=True)


@contextmanager
def timed(shares: Counter[str], *targets: tuple[Any, str, str]) -> Iterator[None]:
    """Add up the processor time spent within functions, without that within others of them."""
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


def by_step(make: Callable[..., SpeechDataset], settings: Any, options: argparse.Namespace) -> None:
    """Print where the time of the chain goes."""
    shares: Counter[str] = Counter()
    examples = warm(make(settings, options.crop_seconds))
    targets = [
        (audio, "read", "read and decode"),
        (audio, "resample", "resample"),
        (CropReader, "_check", "digest"),
        (pools_module, "sha256_of", "digest"),
        (examples_module, "draw", "draw"),
        (examples_module, "apply", "rest of apply"),
        *((kind, "apply", f"apply {name}") for name, kind in KINDS.items()),
    ]
    with timed(shares, *targets):
        total = seconds_for(examples, options.examples)
    shares["rest"] = total - sum(shares.values())
    print(f"\nshare of the time of {options.degradation}, each without what is listed apart")
    for name, seconds in shares.most_common():
        if abs(seconds) > 0.002 * total:
            print(f"{name:20} {100 * seconds / total:5.1f} %")


def by_workers(make: Callable[..., SpeechDataset], settings: Any, options: argparse.Namespace) -> None:
    """Print the speed by the clock, with workers: it hangs on what else the machine does."""
    steps = max(2, options.examples // BATCH)
    for workers in range(options.workers + 1):
        examples = make(settings, options.crop_seconds)
        loader = make_dataloader(examples, start_step=0, stop_step=steps, batch_size=BATCH, num_workers=workers)
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        count = sum(len(batch["clean"]) for batch in batches)
        speed = count / (time.perf_counter() - start)
        print(f"{workers} workers: {speed:.1f} examples/s, {speed * options.crop_seconds:.0f} x real time by the clock")


def watch_memory(make: Callable[..., SpeechDataset], settings: Any, count: int) -> None:
    """Print this process's own memory while it makes many short examples."""
    examples = make(settings, 0.2, cache_mb=8)
    print(f"\nmemory over {count} examples of 0.2 s")
    first = 0.0
    for number in range(count + 1):
        if number % max(1, count // 10) == 0:
            gc.collect()
            held = own_mb()
            # What is made once (resampling filters, responses, the warm allocator) is there after a tenth.
            first = held if number <= count // 10 else first
            print(f"{number:8} examples: {held:.1f} MB, {held - first:+.1f}", flush=True)
        examples[divmod(number, BATCH)]


def own_mb() -> float:
    """Return the memory that is this process's own, files that are mapped aside."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


if __name__ == "__main__":
    main()
