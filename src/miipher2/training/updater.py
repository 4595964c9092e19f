"""One player's parameters and how a loss changes them, and no others."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from miipher2.training import ranks
from miipher2.training.finite import Finiteness


class Updater:
    """Clears, clips and steps its own parameters with AdamW, at the learning rate that `schedule` gives for the step.

    Args:
        finite: shared by the players of a recipe, so that one that is not finite stops all; None: its own.

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), torch.optim.AdamW, in its fused form on every device.
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
        finite: Finiteness | None = None,
    ) -> None:
        self.name = name
        self.parameters = dict(parameters)
        if not self.parameters:
            raise ValueError(f"{name}: there is no parameter to train")
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.updates = 0
        self.finite = finite or Finiteness(next(iter(self.parameters.values())).device)
        self.optimizer: Any = torch.optim.AdamW(
            list(self.parameters.values()), lr=schedule(0), betas=betas, weight_decay=weight_decay, fused=True
        )

    def minimize(self, loss: Float[Tensor, ""], step: int) -> Float[Tensor, ""]:
        """Make one update against `loss` and return the gradient's norm before clipping.

        Raises:
            NonFiniteError: a loss or gradient is not finite, of this step or (on CUDA) the one before; no parameter was
                changed since.
        """
        norm = self.collect(loss, step)
        self.apply(step)
        return norm

    def collect(self, loss: Float[Tensor, ""], step: int, *, retain_graph: bool = False) -> Float[Tensor, ""]:
        """Take the gradient of `loss` for the own parameters and no others, clip it, and return its norm before that.

        Args:
            retain_graph: another player's loss goes through the same graph afterwards.

        Raises:
            NonFiniteError: the loss or the gradient is not finite, where that is read at once.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.parameters.values()), retain_graph=retain_graph)
        unreached = [name for name, parameter in self.parameters.items() if parameter.grad is None]
        assert not unreached, f"{self.name}: no gradient reaches {unreached[0]}, so no checkpoint would hold its state"
        loss = self._average(loss)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        self.finite.observe(self.name, step, loss, norm)
        return norm

    def apply(self, step: int) -> None:
        """Step along the gradient that was collected, unless some player's was not finite.

        Raises:
            NonFiniteError: a loss or gradient of an earlier step was not.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step)
        self.optimizer.found_inf = self.finite.broken
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.finite.settle(before=step)

    def _average(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Bring the gradients to their mean over all ranks, and return the mean of the loss; each travels once."""
        total = loss.detach().clone().reshape(1)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        ranks.average([total, *gradients])
        return total[0]

    def optimizer_state(self) -> dict[str, Any]:
        """Return AdamW's moments by parameter name.

        Raises:
            NonFiniteError: a loss or gradient was not finite; what would be saved is no state to go on from.
        """
        self.finite.settle()
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
