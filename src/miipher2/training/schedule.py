"""The learning rate as a function of the step."""

import math


def learning_rate(
    step: int,
    *,
    lr: float,
    name: str,
    warmup_steps: int,
    decay_steps: int,
    final_ratio: float,
    decay_per_step: float,
) -> float:
    """Return the learning rate of the update that follows `step` finished ones.

    Args:
        name: `constant`, `cosine` (to `final_ratio · lr` at `decay_steps`, constant after) or `exponential`.
        warmup_steps: updates of linear growth; the first one already moves.

    Raises:
        ValueError: no schedule has that name, or a cosine has no length.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    if name == "constant":
        return lr * warmup
    if name == "exponential":
        return lr * warmup * decay_per_step**step
    if name == "cosine":
        if decay_steps <= warmup_steps:
            raise ValueError(f"scheduler.decay_steps={decay_steps}: should be greater than warmup_steps={warmup_steps}")
        progress = min(1.0, max(0, step - warmup_steps) / (decay_steps - warmup_steps))
        return lr * warmup * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
    raise ValueError(f"scheduler.name={name}: should be one of constant, cosine, exponential")
