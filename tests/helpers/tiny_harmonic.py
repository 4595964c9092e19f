"""A harmonic generator small enough for tests."""

from typing import Any

import torch

from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos

RATES = (16_000, 24_000, 48_000)
DIM = 6


def numbers(rate_hz: int, **changes: Any) -> dict[str, Any]:
    return {"dim": DIM, "sample_rate_hz": rate_hz, "channels": 12, "hidden_channels": 20, "blocks": 2, **changes}


def new_harmonic(rate_hz: int, **changes: Any) -> HarmonicVocos:
    """Return a generator whose weights are large enough for a wave of some level and a varying pitch."""
    torch.manual_seed(0)
    generator = HarmonicVocos(**numbers(rate_hz, **changes)).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.6 if "pitch" in name else 0.2)
    return generator
