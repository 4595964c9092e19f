"""What a resume changes: configurations, data and environment compared, nested keys in both directions."""

from typing import Any

# What may not change a result, or is the point of resuming: how far, how often, where, and by how many workers.
HARMLESS = (
    "name",
    "steps",
    "log_interval",
    "validation_interval",
    "checkpoint",
    "wandb",
    "loader",
    "runtime.device",
    "runtime.launch",  # the number of processes is compared as environment.world_size
)
# A model at another rate, or on another encoder, is another model even where every tensor happens to fit.
INCOMPATIBLE = ("model.sample_rate_hz", "upstream_digests.encoder")


class ConfigChangedError(ValueError):
    """The configuration differs from the checkpoint's and `checkpoint.on_config_change` is `error`."""


def diff_configs(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of every nested key that differs and can alter the result; an absent key counts as None."""
    before, after = flatten(old), flatten(new)
    keys = sorted(key for key in before.keys() | after.keys() if not _is_equal(before.get(key), after.get(key)))
    return {key: (before.get(key), after.get(key)) for key in keys if not is_harmless(key)}


def is_harmless(key: str) -> bool:
    """Return whether a configuration key may differ without altering a result."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in HARMLESS)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"optim.lr": 0.1}` for `{"optim": {"lr": 0.1}}`; an empty mapping keeps its key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def format_diff(changed: dict[str, tuple[Any, Any]]) -> str:
    """Return the warning that lists the changes."""
    lines = [f"  - {key}: {old} -> {new}" for key, (old, new) in changed.items()]
    return "\n".join(["Configuration changes detected:", *lines, "These changes may affect training consistency."])


def _is_equal(one: Any, other: Any) -> bool:
    """Compare as a reader would: 1 equals 1.0 but not true, and NaN equals NaN."""
    both_nan = one != one and other != other  # NaN alone differs from itself
    return both_nan or (one == other and isinstance(one, bool) == isinstance(other, bool))
