"""One player's parameters and how a loss changes them, and no others."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; nothing was changed."""


class Updater:
    """Clears, clips and steps its own parameters with AdamW, at the learning rate that `schedule` gives for the step.

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), torch.optim.AdamW.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[tuple[str, nn.Parameter]],
        schedule: Callable[[int], float],
        *,
        weight_decay: float,
        betas: tuple[float, float],
        max_grad_norm: float,
    ) -> None:
        self.name = name
        self.parameters = dict(parameters)
        if not self.parameters:
            raise ValueError(f"{name}: there is no parameter to train")
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.updates = 0
        on_cuda = next(iter(self.parameters.values())).is_cuda
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=schedule(0),
            betas=betas,
            weight_decay=weight_decay,
            fused=on_cuda or None,
        )

    def minimize(self, loss: Float[Tensor, ""], step: int) -> Float[Tensor, ""]:
        """Make one update against `loss` and return the gradient's norm before clipping.

        Raises:
            NonFiniteError: the loss or the gradient is not finite; no parameter was changed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        if not torch.isfinite(norm + loss.detach()):
            value = float(loss.detach())
            raise NonFiniteError(f"step {step + 1}: {self.name} has loss {value} and gradient norm {float(norm)}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step)
        unreached = [name for name, parameter in self.parameters.items() if parameter.grad is None]
        assert not unreached, f"{self.name}: no gradient reaches {unreached[0]}, so no checkpoint would hold its state"
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return norm

    def optimizer_state(self) -> dict[str, Any]:
        """Return AdamW's moments by parameter name."""
        state = self.optimizer.state
        return {name: dict(state[parameter]) for name, parameter in self.parameters.items() if parameter in state}

    def schedule_state(self) -> dict[str, Any]:
        """Return how many updates this player has made."""
        return {"updates": self.updates}

    def load(self, optimizer: dict[str, Any], schedule: dict[str, Any]) -> None:
        """Take over the states of `optimizer_state` and `schedule_state`.

        Raises:
            ValueError: an entry is missing, left over or of another shape; nothing was changed.
        """
        updates = schedule["updates"]
        odd = sorted(set(optimizer) ^ (set(self.parameters) if updates else set()))
        if odd:
            raise ValueError(
                f"optimizer of {self.name}: {len(odd)} entries do not fit the parameters, such as {odd[0]}"
            )
        for name, entry in optimizer.items():
            kept = self.parameters[name]
            wanted = {"exp_avg": (kept.dtype, kept.shape), "exp_avg_sq": (kept.dtype, kept.shape)}
            wanted["step"] = (torch.float32, torch.Size())
            found = {moment: (value.dtype, value.shape) for moment, value in entry.items()}
            if found != wanted:
                raise ValueError(f"optimizer of {self.name}: {name} has {found}; wanted {wanted}")
        indexed = {index: optimizer[name] for index, name in enumerate(self.parameters) if name in optimizer}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": indexed, "param_groups": groups})
        self.updates = updates
