"""The adapters that a stage starts from, and the check that weights fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miipher2.config.schema import AdapterConfig, VocoderConfig
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.pretrained import PretrainedWeights


def start_adapters(
    config: AdapterConfig | VocoderConfig,
    encoder: SpeechEncoder,
    root: Path,
    normaliser: FeatureNormaliser | None = None,
) -> dict[str, str]:
    """Give an encoder the adapters that `init_from.adapter` names, if any; return their sha256 as `adapter`.

    Args:
        normaliser: gets the adapters' statistics of clean features.

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
    (tensors, statistics), digest = weights.read("adapters", "adapter_normaliser")
    with fitting(weights, "adapters"):
        encoder.load_adapter_state_dict(tensors)
        if normaliser is not None:
            normaliser.load_state_dict(statistics)
    return {"adapter": digest}


@contextmanager
def fitting(weights: PretrainedWeights, part: str) -> Iterator[Any]:
    """Say of tensors that do not fit a network whose they are."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{weights.label}: does not fit {part} of this stage: {reason}") from error
