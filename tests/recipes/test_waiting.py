"""An update asks the device for no value: on a GPU the host would wait for it, and the GPU for the host afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import RECIPES, batch
from torch.utils._python_dispatch import TorchDispatchMode

# What hands a value to the host, or has a size that only the device knows.
ASKING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "bincount"}


class Asked(TorchDispatchMode):
    """Collects the operations that would make the host wait; by their names, since the CPU shows the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name == "index" else ()
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        if name in ASKING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RECIPES)
def test_an_update_asks_the_device_for_nothing(encoder_folder: Path, name: str) -> None:
    """With a batch in which one example is shorter than the crop, so that masks are in use."""
    recipe = RECIPES[name](encoder_folder)
    recipe.initialise([batch()])
    players = [
        player
        for player in (getattr(recipe, n, None) for n in ("updater", "generator_optimizer", "discriminator_optimizer"))
        if player
    ]
    for player in players:
        player.finite.late = True  # as on CUDA
    recipe.update(batch(), 2)
    with Asked() as asked:
        recipe.update(batch(1), 3)
    assert asked.found == []


def test_the_watch_sees_what_asks() -> None:
    values = torch.arange(4.0)
    with Asked() as asked:
        values.sum().item()
        bool((values > 0).all())
        values[values > 1]
        values.nonzero()
    assert asked.found == ["_local_scalar_dense", "_local_scalar_dense", "index", "nonzero"]
