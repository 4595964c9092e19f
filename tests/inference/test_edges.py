"""The ends of a recording do not pop, even with networks that do at a hard edge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_weights import ENCODERS, load, publish_all

from miipher2.inference.restorer import Restorer


def load_popping(root: Path, encoder: str) -> Restorer:
    """Return a restorer whose features lie far from the zeros that convolutions are padded with: a hard edge pops."""
    publish_all(root, encoder)
    weights = root / "vocoder/final.safetensors"
    tensors = load_file(weights)
    tensors["normaliser.mean"] = torch.full_like(tensors["normaliser.mean"], 3.0)
    tensors["generator.last.weight"] *= 0.1  # tanh would hide the pop
    save_file(tensors, weights)
    return load(root)


def edge_levels(restored: np.ndarray, rate_hz: int) -> list[float]:
    """Return the peaks of the first and the last 20 ms, relative to that of the next 100 ms."""
    edge, inner = rate_hz // 50, rate_hz // 10
    return [
        float(np.abs(wave[:edge]).max() / np.abs(wave[edge : edge + inner]).max())
        for wave in (restored, restored[::-1])
    ]


def tone(hz: float, rate_hz: int) -> np.ndarray:
    """Return a tone that begins and ends at its peak."""
    return (0.3 * np.cos(2 * np.pi * hz * np.arange(rate_hz) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_neither_end_pops(tmp_path: Path, encoder: str, rate_hz: int) -> None:
    restorer = load_popping(tmp_path, encoder)
    for hz in (60, 200, 400):
        levels = edge_levels(restorer(tone(hz, rate_hz), rate_hz), 16_000)
        assert 1 / 1.5 <= min(levels) <= max(levels) <= 1.5


def test_same_weights_pop_without_the_mirror_image(tmp_path: Path) -> None:
    """The test above would otherwise prove nothing."""
    restorer = load_popping(tmp_path, "hubert")
    bare = restorer.vocode(restorer.features(tone(200, 16_000)))
    assert min(edge_levels(bare, 16_000)) < 1 / 1.5
