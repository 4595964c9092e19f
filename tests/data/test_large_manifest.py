"""A manifest of a million utterances is memory-mapped: constant time per row, and no memory of its own."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from miipher2.data.manifest import SCHEMA, Manifest

ROWS = 1_000_000

OPEN_AND_READ = """
import sys, gc
from pathlib import Path
import numpy as np
from miipher2.data.manifest import Manifest

def own_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

Manifest.from_utterances([]).select("train")
before = own_mb()
train = Manifest.read(sys.argv[1]).select("train")
for index in np.random.default_rng(0).integers(len(train), size=20_000):
    train.row(int(index))
gc.collect()
print(own_mb() - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest file of a million rows, one in twenty of them held out."""
    numbers = np.arange(ROWS)
    digests = [hashlib.sha256(number.tobytes()).hexdigest() for number in numbers]
    columns = {
        "path": [
            f"corpora/large/speaker_{number % 5000:04d}/chapter/utterance_{number:08d}.flac" for number in numbers
        ],
        "member": [""] * ROWS,
        "corpus": ["large"] * ROWS,
        "speaker": [f"speaker_{number % 5000:04d}" for number in numbers],
        "language": ["en"] * ROWS,
        "transcript": [""] * ROWS,
        "sha256": digests,
        "split": ["valid" if number % 20 == 0 else "train" for number in numbers],
        "seconds": numbers % 20 + 1.0,
    }
    table = pa.table([pa.array(columns.get(field.name, np.zeros(ROWS)), field.type) for field in SCHEMA], SCHEMA)
    path = tmp_path_factory.mktemp("large") / "manifest.parquet"
    manifest = Manifest.from_table(table)
    manifest._digest = "d" * 64  # that of a million rows takes seconds, and is not tested here
    manifest.write(path)
    return path


@pytest.mark.slow
def test_a_large_manifest_needs_no_memory_of_its_own(path: Path) -> None:
    assert path.with_suffix(".arrow").stat().st_size > 150e6
    done = subprocess.run([sys.executable, "-c", OPEN_AND_READ, str(path)], capture_output=True, text=True, check=True)
    # The numbers of the rows of a split, 4 bytes each, and little else; the whole file would be more than 150 MB.
    assert float(done.stdout) < 25


def test_a_row_takes_no_longer_in_a_large_manifest_than_in_a_small(path: Path) -> None:
    large = Manifest.read(path)
    small = Manifest.from_utterances([large.row(index) for index in range(100)])
    seconds = []
    for manifest in (small, large, small, large):
        start = time.perf_counter()
        for index in np.random.default_rng(0).integers(len(manifest), size=2000):
            manifest.row(int(index))
        seconds.append(time.perf_counter() - start)
    assert min(seconds[1::2]) < 5 * min(seconds[::2])


def test_the_parquet_is_read_if_the_mapped_file_is_missing_or_another(path: Path, tmp_path: Path) -> None:
    first = Manifest.read(path)
    few = Manifest.from_utterances([first.row(index) for index in range(50)])
    other = Manifest.from_utterances([first.row(index) for index in range(50, 80)])
    few.write(tmp_path / "a.parquet")
    other.write(tmp_path / "b.parquet")
    (tmp_path / "b.arrow").replace(tmp_path / "a.arrow")
    for _ in range(2):
        again = Manifest.read(tmp_path / "a.parquet")
        assert [again.row(index) for index in range(50)] == [few.row(index) for index in range(50)]
        assert again.digest == few.digest
        (tmp_path / "a.arrow").unlink(missing_ok=True)
