"""`miipher2 evaluate` without the extra `metrics`, in an interpreter that has all packages but those."""

import csv
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from miipher2.audio.io import write_audio
from miipher2.config.paths import ROOT
from miipher2.evaluation.metrics.registry import METRICS
from miipher2.rng import stream

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with links to the installed packages, without the extra and its dependencies."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [*(pin.split("==")[0] for pin in extras["metrics"]), "librosa"]
    hidden = {Path(str(file)).parts[0] for name in names for file in distribution(name).files or []}
    assert {library for metric in METRICS.values() for library in metric.libraries} <= {
        Path(name).stem for name in hidden
    }
    folder = tmp_path_factory.mktemp("packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in hidden and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


def test_metrics_of_the_extra_are_skipped_by_name_and_the_others_measured(packages: Path, tmp_path: Path) -> None:
    clean = (0.1 * stream(0, "clean").standard_normal(RATE_HZ)).astype(np.float32)
    noise = stream(0, "noise").standard_normal(RATE_HZ).astype(np.float32)
    for name, amount in (("clean", 0.0), ("degraded", 0.05), ("restored", 0.01)):
        write_audio(tmp_path / f"{name}.wav", clean + np.float32(amount) * noise, RATE_HZ)
    words = [str(tmp_path / f"{name}.wav") for name in ("clean", "degraded", "restored")]
    done = subprocess.run(
        # -S: no site-packages of its own.
        [sys.executable, "-S", "-m", "miipher2.cli.main", "evaluate", *words, "--language", "en", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{packages}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    details = json.loads((tmp_path / "out/evaluate_details.json").read_text())
    metrics = json.loads((tmp_path / "out/evaluate.json").read_text())
    page = (tmp_path / "out/index.html").read_text()
    (row,) = csv.DictReader((tmp_path / "out/evaluate.csv").open())
    expected = {name: metric.libraries[0] for name, metric in METRICS.items() if metric.libraries}
    assert len(expected) == 8
    for name, library in expected.items():
        reason = f"{library} is not installed; uv sync --extra metrics"
        assert f"skipped: {name}: {reason}\n" in done.stdout
        assert details["skipped"][name] == {reason: 0}
        assert metrics["skipped"][name] == 3
        assert f"{name}: {reason}" in row["skipped"]
        assert f'<tr><td>{name}</td><td>all</td><td class="text">{reason}</td></tr>' in page
    assert metrics["log_mel"]["restored"] < metrics["log_mel"]["degraded"]
    assert {verdict["state"] for verdict in details["gate"]} == {"not measured"}
