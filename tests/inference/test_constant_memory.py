"""Peak memory of real processes does not grow with the length of the recording."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_weights import publish_all

from miipher2.audio.stream import Recording, RecordingWriter
from miipher2.rng import stream

RATE_HZ = 16_000
RESTORE = """\
import json, resource, sys
from pathlib import Path
from miipher2.audio.stream import Recording
from miipher2.inference.batch_job import Job
from miipher2.inference.files import Task
from miipher2.inference.restorer import Restorer
root, source, target = map(Path, sys.argv[1:])
outcome = Job(Restorer.from_published("adapter", "vocoder", root=root, batch_size=2), None).run(
    [Task(source, target, target.name)])
assert not outcome.failed, outcome.failed
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


def write_recording(path: Path, minutes: float, channels: int = 1) -> None:
    samples = round(minutes * 60 * RATE_HZ)
    rng = stream(0, "noise")
    with RecordingWriter(path, RATE_HZ, channels, samples) as writer:
        for start in range(0, samples, 60 * RATE_HZ):
            writer.write(rng.uniform(-0.5, 0.5, (channels, min(60 * RATE_HZ, samples - start))).astype(np.float32))


def peak_mb(root: Path, source: Path) -> float:
    """Return the peak memory of a process that restores a file, and check the length of the result."""
    target = source.with_name(f"restored_{source.name}")
    command = [sys.executable, "-c", RESTORE, *map(str, (root, source, target))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Recording(target).samples == Recording(source).samples
    return float(json.loads(done.stdout.splitlines()[-1]))


def growth_mb(folder: Path, minutes: float) -> float:
    """Return how much more memory a file of `minutes` takes than one of a minute."""
    publish_all(folder, "hubert")
    write_recording(folder / "short.wav", 1)
    write_recording(folder / "long.wav", minutes)
    return peak_mb(folder, folder / "long.wav") - peak_mb(folder, folder / "short.wav")


@pytest.mark.slow
def test_four_minutes_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """Kept whole, three more minutes would be 12 MB in and 12 MB out, in several copies."""
    assert growth_mb(tmp_path, 4) < 30


@pytest.mark.slow
def test_three_hours_take_at_most_300_mb_more_than_a_minute(tmp_path: Path) -> None:
    """With the tiny networks; kept whole, three hours would be 690 MB in and 690 MB out, in one copy."""
    growth = growth_mb(tmp_path, 180)
    print(f"three hours take {growth:.0f} MB more than a minute")  # noqa: T201
    assert growth <= 300
