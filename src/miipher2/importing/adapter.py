"""Adapter checkpoints of the original Miipher-2 code (Atotti/miipher-2): adapters, and the HuBERT that is in the file.

That code also trains the layer norms before or after the adapted blocks, so the encoder is the file's own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miipher2.importing.encoder import save_hubert, take_hubert
from miipher2.importing.source import Record, SourceTensors, describe, value_at
from miipher2.importing.torch_file import SourceError, StoredTensor
from miipher2.inference.licences import licence_of

MODEL, OPTIMIZER = "model_state_dict", "optimizer_state_dict"
# The extractor's name for its HuBERT, and before July 2025.
HUBERT_PREFIXES = ("extractor.model.", "extractor.hubert.")
KINDS = ("weight", "bias")
PARTS = {"ff.0": "norm", "ff.1": "down", "ff.3": "up"}
# Tensors that the optimizer of today's wiring has for each layer (2 of its layer norm, 6 of its adapter), and that of
# the wiring before 2025-06-19, where adapters came after a layer.
PARALLEL, SERIAL = 8, 6
MOMENTS = ("exp_avg", "exp_avg_sq")
MAX_UPDATES = 2**24  # which AdamW counts in float32


@dataclass
class ImportedAdapter:
    """Adapters with their encoder.

    Args:
        tensors: as `published/` names them.
        dim: size of a feature.
        save_encoder: writes the encoder into a folder.
    """

    tensors: dict[str, Tensor]
    layer: int
    hidden_dim: int
    dim: int
    save_encoder: Callable[[Path], object]
    record: Record


def is_adapter(content: Any) -> bool:
    """Return whether a file holds the original's adapters, alone or in a checkpoint."""
    state = content.get(MODEL, content) if isinstance(content, dict) else None
    return isinstance(state, dict) and any(str(name).startswith("adapters.0.") for name in state)


def import_adapter(path: Path, content: Any, sha256: str, encoder: str | None) -> ImportedAdapter:
    """Return the adapters of a file, and the HuBERT with the layer norms that were trained beside them.

    Args:
        encoder: folder or hub name of the encoder that the file was trained from, whose `config.json` is needed; None
            for the one that the file names.

    Raises:
        SourceError: the file is of an era with other wiring, or a key is missing, of another shape or not known.
        ValueError: no encoder is named, or it does not fit.
    """
    is_checkpoint = MODEL in content
    tensors = SourceTensors(path, content[MODEL] if is_checkpoint else content, MODEL if is_checkpoint else "the file")
    numbers = {int(found[1]) for name in tensors.names if (found := re.match(r"adapters\.(\d{1,4})\.", name))}
    layer = max(numbers) + 1
    _check_wiring(path, content.get(OPTIMIZER) if is_checkpoint else None, layer)
    named = value_at(content, "config.model.hubert_model_name") if is_checkpoint else None
    encoder = encoder or (named if isinstance(named, str) else None)
    if encoder is None:
        raise ValueError(f"{path}: does not name its encoder; add --encoder, such as utter-project/mHuBERT-147")
    hidden_dim, dim = tensors.sizes("adapters.0.ff.1.weight", 2)
    shapes: dict[str, tuple[int, ...]] = {
        "ff.0.weight": (dim,),
        "ff.0.bias": (dim,),
        "ff.1.weight": (hidden_dim, dim),
        "ff.1.bias": (hidden_dim,),
        "ff.3.weight": (dim, hidden_dim),
        "ff.3.bias": (dim,),
    }
    adapters = {
        f"adapters.{number}.{PARTS[part[:4]]}.{part[5:]}": tensors.take(f"adapters.{number}.{part}", shape)
        for number in range(layer)
        for part, shape in shapes.items()
    }
    hubert = take_hubert(tensors, _prefix(tensors), encoder, layer)
    tensors.check_all_used()
    if dim != hubert.config.hidden_size:
        raise SourceError(f"{path}: adapters for {dim} values a frame; its encoder has {hubert.config.hidden_size}")
    record = Record("adapters of the original Miipher-2 code", path.name, sha256, left_out=tensors.left_out)
    record.licence, record.is_non_commercial = licence_of(encoder, named)
    record.not_exact.append(
        "a frame begins 40 samples (2.5 ms) earlier: the source pads nothing, here 40 samples on each side are"
    )
    if is_checkpoint:
        record.add_checkpoint(content, "step", (MODEL, "config"))
        said = value_at(content, "config.model.hubert_layer")
        if said != layer:
            record.not_exact.append(f"its configuration has hubert_layer {describe(said)}; its {layer} adapters decide")
    else:
        record.not_exact.append(
            "without an optimizer the file does not show whether its adapters stand beside the feed-forward blocks "
            "(from 2025-06-19 on, as here) or after the layers"
        )
    return ImportedAdapter(adapters, layer, hidden_dim, dim, partial(save_hubert, hubert), record)


def add_moments(path: Path, content: Any, imported: ImportedAdapter) -> None:
    """Add the optimizer's moments of the adapters to what is imported from a checkpoint.

    Raises:
        SourceError: it has none, or they are not AdamW's for these adapters.
    """
    if not is_adapter(content) or not isinstance(state := value_at(content, f"{OPTIMIZER}.state"), dict) or not state:
        raise SourceError(
            f"{path}: --optimizer: has no {OPTIMIZER} with moments; should be a checkpoint of the original Miipher-2 "
            "code, as its training wrote it"
        )
    groups = content[OPTIMIZER]["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    if numbers != list(range(PARALLEL * imported.layer)):
        raise SourceError(
            f"{path}: {OPTIMIZER} does not number its tensors from 0 to {PARALLEL * imported.layer - 1}, by which they "
            "are told apart"
        )
    # The layer norms first, two tensors each, then the adapters, six each.
    names = {2 * imported.layer + place: name for place, name in enumerate(_adapter_names(imported.layer))}
    parts: dict[str, Any] = {}
    counts = set()
    for number, name in names.items():
        entry = state.get(number)
        if not isinstance(entry, dict) or entry.keys() != {"step", *MOMENTS}:
            found = sorted(map(str, entry)) if isinstance(entry, dict) else describe(entry)
            raise SourceError(f"{path}: {OPTIMIZER}.state.{number} is {found}; should be step, exp_avg and exp_avg_sq")
        counts.add(_count(path, number, entry["step"]))
        parts |= {f"{moment}.{name}": entry[moment] for moment in MOMENTS}
    if len(counts) != 1:
        raise SourceError(
            f"{path}: {OPTIMIZER} has had {sorted(counts)} updates; should have had as many of each tensor"
        )
    (updates,) = counts
    tensors = SourceTensors(path, parts, OPTIMIZER)
    for name in parts:
        moment = tensors.take(name, imported.tensors[f"adapters.{name.partition('.')[2]}"].shape)
        if name.startswith("exp_avg_sq") and bool((moment < 0).any()):
            raise SourceError(f"{path}: {OPTIMIZER}: {name} holds values below 0; should be a mean of squares")
        imported.tensors[f"optimizer.{name}"] = moment
    imported.tensors["optimizer.updates"] = torch.tensor(updates)
    others = imported.record.left_out["entries of the checkpoint beside the model"]
    others.remove(OPTIMIZER)
    frozen = [f"{OPTIMIZER}.state.{number}" for number in state if number not in names]
    imported.record.left_out["moments of layer norms, which stay as they are here"] = frozen
    settings = ", ".join(f"{key}={str(groups[0].get(key))[:40]}" for key in ("lr", "betas", "eps", "weight_decay"))
    imported.record.not_exact.append(
        f"the optimizer's moments of {updates} updates ({settings}) are those of a loss on another scale: stage 1 goes "
        "on from them, but not bit for bit, and should warm up"
    )


def _adapter_names(layers: int) -> list[str]:
    """Return our names of the adapters' tensors in the order of the source's optimizer."""
    return [f"{number}.{part}.{kind}" for number in range(layers) for part in PARTS.values() for kind in KINDS]


def _count(path: Path, number: int, step: Any) -> int:
    """Return how many updates a tensor has had."""
    count = float(step.read()) if isinstance(step, StoredTensor) and step.shape == () else step
    if type(count) not in (int, float) or not 0 < count <= MAX_UPDATES or count != int(count):
        raise SourceError(
            f"{path}: {OPTIMIZER}.state.{number}.step is {describe(count)}; should be a number of updates"
        )
    return int(count)


def _prefix(tensors: SourceTensors) -> str:
    for prefix in HUBERT_PREFIXES:
        if any(name.startswith(prefix) for name in tensors.names):
            return prefix
    raise SourceError(
        f"{tensors.path}: {tensors.what} has no {HUBERT_PREFIXES[0]}…; should hold the encoder beside the adapters, "
        "since its layer norms were trained with them"
    )


def _check_wiring(path: Path, optimizer: Any, layers: int) -> None:
    """Check by the number of trained tensors that the adapters stand beside the feed-forward blocks."""
    groups = value_at(optimizer, "param_groups")
    if not isinstance(groups, list) or not all(isinstance(value_at(group, "params"), list) for group in groups):
        if optimizer is not None:
            raise SourceError(f"{path}: {OPTIMIZER} is {describe(optimizer)} without param_groups; should have them")
        return
    count = sum(len(group["params"]) for group in groups)
    if count == SERIAL * layers:
        raise SourceError(
            f"{path}: {OPTIMIZER} has {count} tensors for {layers} adapters: they come after the layers, as before "
            f"2025-06-19; should be a later checkpoint, with {PARALLEL * layers}, whose adapters stand beside them"
        )
    if count != PARALLEL * layers:
        raise SourceError(
            f"{path}: {OPTIMIZER} has {count} tensors for {layers} adapters; should have {PARALLEL * layers}: "
            "6 of each adapter and 2 of each layer norm"
        )
