"""Memory does not grow with the number of examples; the long run is `benchmarks/loader.py --memory 100000`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
SCRIPT = """
import gc, sys
from pathlib import Path
import torch
from data_configs import data_config, degradation_config
from miipher2.data.dataset import SpeechDataset
from miipher2.data.prepared import PreparedData

torch.set_num_threads(1)
root = Path(sys.argv[1])
data = PreparedData.read(root, "data/prepared")
ranges = {"room": {}, "noise": {}, "babble": {"voices": [2, 2]}, "codec": {"kinds": ["mp3", "gsm"]}, "hum": {}}
degradation = degradation_config({name: {"probability": 0.3, **values} for name, values in ranges.items()})
examples = SpeechDataset(
    data.speech.select("train"), data.pools(root, "train"), data_config(0.2), degradation, root=root, seed=0,
    batch_size=4, sample_rate_hz=24000, cache_mb=0.5,
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


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_examples(root: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)}
    command = [sys.executable, "-c", SCRIPT, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # 700 examples of 25 kB each are 17 MB, if each were kept.
    assert float(done.stdout) < 5
