"""Errors of the encoder's features, degraded and cleaned, against those of clean speech."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Features:
    """The encoder's normalised features of one utterance: of clean speech, of degraded speech, and cleaned."""

    clean: Float[np.ndarray, "frame dim"]
    degraded: Float[np.ndarray, "degraded_frame degraded_dim"]
    cleaned: Float[np.ndarray, "cleaned_frame cleaned_dim"]


def feature_errors(features: Features) -> dict[str, float]:
    """Return the mean squared and (under `l1_`) absolute errors against clean, and the ratios cleaned / degraded.

    Raises:
        ValueError: the three arrays differ in shape, or hold values that are not finite.
    """
    arrays = {"clean": features.clean, "degraded": features.degraded, "cleaned": features.cleaned}
    for name, array in arrays.items():
        if array.shape != features.clean.shape:
            raise ValueError(f"{name} features have the shape {array.shape}; clean has {features.clean.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} features hold values that are not finite")
    errors: dict[str, float] = {}
    for name in ("degraded", "cleaned"):
        difference = np.asarray(arrays[name], np.float64) - np.asarray(features.clean, np.float64)
        errors[name] = float(np.square(difference).mean())
        errors[f"l1_{name}"] = float(np.abs(difference).mean())
    return errors | error_ratios(errors)


def error_ratios(errors: Mapping[str, float | int]) -> dict[str, float]:
    """Return cleaned / degraded for squared and absolute errors, where the error of degraded speech is not 0."""
    return {
        f"{norm}ratio": errors[f"{norm}cleaned"] / errors[f"{norm}degraded"]
        for norm in ("", "l1_")
        if errors[f"{norm}degraded"] > 0.0
    }
