"""An exponential moving average of a network's weights."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class ExponentialMovingAverage(AveragedModel):
    """Averaged copy of a network, `module`: decay * average + (1 - decay) * network, starting from its first weights.

    Torch's own update copies its counter to the device and waits for that; this one does not, and skips bad steps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, found_inf: Float[Tensor, ""]) -> None:
        """Average in the network's weights, unless `found_inf` is 1 (see `FiniteCheck`); buffers are constants."""
        weight = (1 - found_inf) * (1 - self.decay)
        for average, parameter in zip(self.module.parameters(), network.parameters(), strict=True):
            average.lerp_(parameter, weight)
        self.n_averaged += 1

    def load(self, state: dict[str, Any], updates: int) -> None:
        """Load a state strictly.

        Raises:
            ValueError: it has not averaged over the network's number of `updates`.
        """
        if (averaged := int(state["n_averaged"])) != updates:
            raise ValueError(f"the EMA has averaged {averaged} updates, the network has had {updates}")
        self.load_state_dict(state)
