"""Random numbers: named streams, and the global generators saved, restored and guarded."""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the random generator that belongs to `seed` and `name`, the same on every machine and in every process.

    Two names that differ in any part, or in a part's type, give independent streams.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox), keyed by a SHA-256 of the name.
    """
    digest = hashlib.sha256(json.dumps([seed, *name]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy, PyTorch and every CUDA device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code draws from it, so it is part of the state
    torch.manual_seed(seed)


def get_state() -> dict[str, Any]:
    """Return the state of every global generator as plain values and tensors, readable without pickle.

    `cuda` holds the generator of this process's current device; none before CUDA starts, or on the CPU.
    """
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gauss": float(cached_gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
    }


def check_state(state: dict[str, Any]) -> None:
    """Check that `set_state` can restore `state`; no generator changes.

    Raises:
        LookupError: an entry is missing or too short.
        ValueError, TypeError or RuntimeError: an entry does not fit its generator, or the CUDA devices differ.
    """
    missing = [entry for entry in ("python", "numpy", "torch", "cuda") if entry not in state]
    if missing:
        raise KeyError(f"the RNG state has no entry {', '.join(missing)}; a checkpoint without it cannot be resumed")
    devices = int(torch.cuda.is_initialized())
    if len(state["cuda"]) != devices:
        raise ValueError(f"the RNG state holds {len(state['cuda'])} CUDA devices, this run uses {devices}")
    random.Random().setstate(_python_state(state))
    np.random.RandomState().set_state(_numpy_state(state))
    torch.Generator().set_state(state["torch"])
    for one in state["cuda"]:
        torch.Generator("cuda").set_state(one)


def set_state(state: dict[str, Any]) -> None:
    """Restore every global generator to what `get_state` returned.

    Raises:
        LookupError, ValueError, TypeError or RuntimeError: as `check_state`; nothing was restored.
    """
    check_state(state)
    random.setstate(_python_state(state))
    np.random.set_state(_numpy_state(state))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for one in state["cuda"]:
        torch.cuda.set_rng_state(one)


@contextmanager
def guarded() -> Iterator[None]:
    """Leave the global generators as they were, whatever the block draws from them."""
    before = get_state()
    try:
        yield
    finally:
        if torch.cuda.is_initialized() and not before["cuda"]:  # it started in the block: as if nothing had been drawn
            torch.cuda.manual_seed(torch.cuda.initial_seed())
            before["cuda"] = get_state()["cuda"]
        set_state(before)


def _python_state(state: dict[str, Any]) -> tuple[Any, ...]:
    python = state["python"]
    return python["version"], tuple(python["internal"]), python["gauss"]


def _numpy_state(state: dict[str, Any]) -> tuple[Any, ...]:
    saved = state["numpy"]
    keys = saved["keys"].numpy().astype(np.uint32)
    return saved["name"], keys, saved["position"], saved["has_gauss"], saved["cached_gauss"]
