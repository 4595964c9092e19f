"""The generators that there are, by the name that a configuration gives them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from miipher2.models.vocoder.generator import Generator
from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos
from miipher2.models.vocoder.hifigan import HifiGan
from miipher2.models.vocoder.vocos import Vocos

GENERATORS: dict[str, type[Generator]] = {"hifigan": HifiGan, "vocos": Vocos, "harmonic_vocos": HarmonicVocos}


def new_generator(*, kind: str, **numbers: Any) -> Generator:
    """Return an untrained generator, drawn from the global generator; `numbers` are its class's arguments.

    Raises:
        ValueError: no generator has that name, or the numbers do not fit together.
    """
    if kind not in GENERATORS:
        raise ValueError(f"model.generator.kind={kind}: should be one of {', '.join(GENERATORS)}")
    return GENERATORS[kind](**numbers)


def exported_generator(state: Mapping[str, Tensor], **numbers: Any) -> Generator:
    """Return a folded generator in eval with exported weights; `numbers` as for `new_generator`."""
    generator = new_generator(**numbers).fold()
    generator.load_exported(state)
    return generator.eval()
