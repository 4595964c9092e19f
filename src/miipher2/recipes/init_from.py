"""The adapters that a stage starts from, and the check that weights fit."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from miipher2.config.schema import AdapterConfig, VocoderConfig
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.pretrained import PretrainedWeights
from miipher2.training.optimizer import NetworkOptimizer

log = logging.getLogger(__name__)


def start_adapters(
    config: AdapterConfig | VocoderConfig,
    encoder: SpeechEncoder,
    root: Path,
    normaliser: FeatureNormaliser | None = None,
    optimizer: NetworkOptimizer | None = None,
) -> dict[str, str]:
    """Give an encoder the adapters that `init_from.adapter` names, if any; return their sha256 as `adapter`.

    Args:
        normaliser: gets the adapters' statistics of clean features.
        optimizer: gets the moments that lie beside imported adapters; without them it stays fresh.

    Raises:
        FileNotFoundError: there is no such folder or file; says how to make it.
        ValueError: a file is damaged, or was trained for another encoder or layer, or with another size.
    """
    name = config.init_from.adapter
    if name is None:
        return {}
    weights = PretrainedWeights("init_from.adapter", name, root)
    weights.check_encoder(config.model, encoder.digest)
    weights.check(adapter_hidden_dim=config.model.adapter_hidden_dim)
    (tensors, statistics, moments), digest = weights.read("adapters", "adapter_normaliser", "adapter_optimizer")
    with fitting(weights, "adapters"):
        encoder.load_adapter_state_dict(tensors)
        if normaliser is not None:
            normaliser.load_state_dict(statistics)
        if optimizer is not None:
            _take_over(weights.label, moments, optimizer, config)
    return {"adapter": digest}


def _take_over(
    label: str, tensors: dict[str, Tensor], optimizer: NetworkOptimizer, config: AdapterConfig | VocoderConfig
) -> None:
    """Give an optimizer the moments of a file, and say what it starts from."""
    warmup_steps = config.optim.scheduler.warmup_steps
    if not tensors:
        log.info("%s: a fresh optimizer, optim.scheduler.warmup_steps=%d", label, warmup_steps)
        return
    updates = int(tensors.pop("updates"))
    names = {name.partition(".")[2] for name in tensors}
    moments = {name: {part: tensors[f"{part}.{name}"] for part in ("exp_avg", "exp_avg_sq")} for name in names}
    optimizer.take_over(moments, updates)
    log.info(
        "%s: moments of %d updates elsewhere; training goes on, but not bit for bit as there: loss, data and schedule "
        "are this stage's (optim.scheduler.warmup_steps=%d)",
        label, updates, warmup_steps,
    )  # fmt: skip


@contextmanager
def fitting(weights: PretrainedWeights, part: str) -> Iterator[Any]:
    """Say of tensors that do not fit a network whose they are."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{weights.label}: does not fit {part} of this stage: {reason}") from error
