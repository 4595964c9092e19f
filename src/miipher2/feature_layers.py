"""Which layers of an encoder make its features. Imports no torch: a configuration is checked by it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def as_layers(layer: Any) -> tuple[int, ...]:
    """Return the layers that `hubert_layer` names.

    Raises:
        ValueError: it is neither a number from 1 nor such numbers, ascending.
    """
    layers = tuple(layer) if isinstance(layer, Sequence) else (layer,)
    are_numbers = all(type(number) is int and number >= 1 for number in layers)
    if not layers or not are_numbers or any(after <= before for before, after in pairwise(layers)):
        raise ValueError(f"layer {layer!r}: should be a number from 1, or several, ascending")
    return layers
