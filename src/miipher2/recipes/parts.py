"""What recipes are made of, from a configuration's plain values: encoder, updaters, feature statistics, weights."""

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from miipher2.models.normaliser import FeatureNormaliser
from miipher2.models.pretrained import load_encoder
from miipher2.models.ssl import Embedded, SpeechEncoder
from miipher2.training.finite import Finiteness
from miipher2.training.recipe import Batch
from miipher2.training.schedule import learning_rate
from miipher2.training.updater import Updater


def make_encoder(model: Any, root: Path) -> SpeechEncoder:
    """Load the frozen encoder of a `model` section; a name that is a folder under `root` is that folder."""
    name, folder = model.hubert_model_name, root / model.hubert_model_name
    found = folder if folder.is_dir() else name
    encoder = load_encoder(found, model.hubert_layer, revision=model.hubert_revision)
    if model.adapter_hidden_dim is not None:
        encoder.add_adapters(model.adapter_hidden_dim)
    return encoder


def make_updater(
    name: str, parameters: Iterable[tuple[str, nn.Parameter]], optim: Any, finite: Finiteness | None = None
) -> Updater:
    """Return the updater of an `optim` section; players of one recipe share `finite`."""
    return Updater(
        name,
        parameters,
        partial(learning_rate, lr=optim.lr, **optim.scheduler),
        weight_decay=optim.weight_decay,
        betas=(optim.betas[0], optim.betas[1]),
        max_grad_norm=optim.max_grad_norm,
        finite=finite,
    )


def read_weights(key: str, published: str, file: str, root: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of weights from an earlier stage's published folder; return its tensors and sha256.

    Raises:
        FileNotFoundError: it is not there; names the key, the file and how to make it.
        ValueError: it is damaged.
    """
    path = root / published / f"{file}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{key}={published}: {path} is missing; train the earlier stage first (uv run dvc repro), or fetch it "
            "(uv run dvc pull)"
        )
    data = path.read_bytes()
    try:
        return load(data), hashlib.sha256(data).hexdigest()
    except SafetensorError as error:
        raise ValueError(f"{key}={published}: {path} is damaged ({error}); restore it: uv run dvc checkout") from None


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state under `prefix`."""
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def check_names(found: Iterable[str], wanted: Iterable[str]) -> None:
    """Check that a state has just the tensors that are wanted.

    Raises:
        ValueError: names the first that is missing or left over.
    """
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if extra:
        raise ValueError(f"{len(extra)} tensors are left over, such as {extra[0]}")


def fit_normaliser(
    normaliser: FeatureNormaliser, encoder: SpeechEncoder, batches: Iterable[Batch], device: torch.device, bf16: bool
) -> None:
    """Set the statistics of clean features from some batches, as they are heard in training."""
    for batch in batches:
        frames = batch["valid_frames"]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = encoder(batch["clean"].to(device), frames, adapted=False).float()
        normaliser.fit(features, (torch.arange(features.shape[1]) < frames[:, None]).to(device))


def halves(embedded: Embedded) -> tuple[Embedded, Embedded]:
    """Return the first and the second half of a batch."""
    middle = len(embedded.hidden) // 2
    valid = embedded.valid
    first = Embedded(embedded.hidden[:middle], None if valid is None else valid[:middle])
    return first, Embedded(embedded.hidden[middle:], None if valid is None else valid[middle:])
