"""Memory stays flat however many examples are made; the long run is `benchmarks/loader.py --memory 100000`."""

import os
import subprocess
import sys
from pathlib import Path

MAKE = """
import gc, sys
from pathlib import Path
import torch
from miipher2.data.dataset import SpeechDataset
from miipher2.data.prepared import Prepared

torch.set_num_threads(1)
root = Path(sys.argv[1])
data = Prepared.read(root, "data/prepared")
snr = {"snr_db": [5, 30]}
kinds = {"room": {}, "noise": snr, "babble": {**snr, "voices": [2, 2]}, "codec": {"kinds": ["mp3", "gsm"]}, "hum": snr}
degradation = {name: {"probability": 0.3, **ranges} for name, ranges in kinds.items()}
examples = SpeechDataset(
    data.speech.select("train"), data.pools(root, "train"), degradation, root=root, seed=0, batch_size=4,
    crop_seconds=0.2, sample_rate_hz=24000, level_db=(-30, -20), cache_mb=0.5,
)

def own_mb():
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

for number in range(1001):
    examples[divmod(number, 4)]
    if number == 300:
        before = own_mb()
print(own_mb() - before)
"""


def test_memory_does_not_grow_with_the_examples_made(root: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MAKE, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # 700 examples of 25 kB each are 17 MB, if each were kept.
    assert float(done.stdout) < 5
