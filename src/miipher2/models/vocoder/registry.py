"""The generators by the name that `model.generator.kind` gives them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from miipher2.models.vocoder.conformer_hifigan import ConformerHifiGan
from miipher2.models.vocoder.dac import Dac
from miipher2.models.vocoder.generator import Generator
from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos
from miipher2.models.vocoder.hifigan import HifiGan
from miipher2.models.vocoder.vocos import Vocos

GENERATORS: dict[str, type[Generator]] = {
    "hifigan": HifiGan,
    "conformer_hifigan": ConformerHifiGan,
    "vocos": Vocos,
    "harmonic_vocos": HarmonicVocos,
    "dac": Dac,
}


def build_generator(*, kind: str, **arguments: Any) -> Generator:
    """Return an untrained generator, initialised from the global generator.

    Args:
        kind: a key of `GENERATORS`.
        arguments: of its class.

    Raises:
        ValueError: no generator has that name, or its arguments do not fit together.
    """
    if kind not in GENERATORS:
        raise ValueError(f"model.generator.kind={kind}: should be one of {', '.join(GENERATORS)}")
    return GENERATORS[kind](**arguments)


def load_exported_generator(state: Mapping[str, Tensor], **arguments: Any) -> Generator:
    """Return a generator with exported weights, for inference; `arguments` are those of `build_generator`."""
    generator = build_generator(**arguments).remove_weight_norm()
    generator.load_exported_state_dict(state)
    return generator.eval()
