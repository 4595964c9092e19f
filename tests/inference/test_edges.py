"""The ends of a recording: no pop, whatever the networks make of a hard edge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_weights import ENCODERS, load, publish_all

from miipher2.inference.restorer import Restorer


def popping(root: Path, kind: str) -> Restorer:
    """Weights whose features lie far from the zeros that convolutions are padded with: a hard edge is a step."""
    publish_all(root, kind)
    weights = root / "vocoder/final.safetensors"
    tensors = load_file(weights)
    tensors["normaliser.mean"] = torch.full_like(tensors["normaliser.mean"], 3.0)
    tensors["generator.last.weight"] *= 0.1  # where tanh would hide it
    save_file(tensors, weights)
    return load(root)


def pops(restored: np.ndarray, rate_hz: int) -> list[float]:
    """Return the peaks of the first and the last 20 ms, relative to that of the 100 ms beside them."""
    edge, beside = rate_hz // 50, rate_hz // 10
    return [
        float(np.abs(one[:edge]).max() / np.abs(one[edge : edge + beside]).max()) for one in (restored, restored[::-1])
    ]


def tone(hz: float, rate_hz: int) -> np.ndarray:
    """Return a tone that begins and ends at its peak."""
    return (0.3 * np.cos(2 * np.pi * hz * np.arange(rate_hz) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_neither_end_pops(tmp_path: Path, kind: str, rate_hz: int) -> None:
    restorer = popping(tmp_path, kind)
    for hz in (60, 200, 400):
        at_ends = pops(restorer(tone(hz, rate_hz), rate_hz), 16_000)
        assert 1 / 1.5 <= min(at_ends) <= max(at_ends) <= 1.5


def test_without_the_mirror_image_the_level_of_the_same_weights_jumps(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    restorer = popping(tmp_path, "hubert")
    bare = restorer.vocode(restorer.features(tone(200, 16_000)))
    assert min(pops(bare, 16_000)) < 1 / 1.5
