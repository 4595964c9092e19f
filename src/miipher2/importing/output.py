"""Writes what was imported as published folders, whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from miipher2.atomic_io import fsync, temporary_name
from miipher2.importing.source import Record
from miipher2.inference.licences import non_commercial_part
from miipher2.inference.weights import WeightsFile
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.pretrained import IMPORTED

ENCODER, ADAPTER, VOCODER = "encoder", "adapter", "vocoder"
FORMAT = 1


@dataclass
class Published:
    """What one published folder gets.

    Args:
        model: the `model` section of its configuration, without the encoder's name and layer.
        weights: tensors by file (`final` becomes final.safetensors) and name.
        check: compares the encoder or vocoder, as it was read back, with its source; returns the largest difference.
    """

    model: dict[str, Any]
    weights: dict[str, dict[str, Tensor]]
    record: Record
    check: Callable[[Any], float] | None = None


def write(
    out: Path,
    root: Path,
    *,
    layer: int,
    save_encoder: Callable[[Path], object],
    encoder_source: str,
    adapter: Published | None,
    vocoder: Published | None,
) -> dict[str, Any]:
    """Write `encoder/`, `adapter/`, `vocoder/` and `imported.json` into a new folder; return the content of the latter.

    The folder appears when everything in it has been read back by the code that restores.

    Args:
        root: the repository; an encoder in it is named relative to it.
        save_encoder: writes the encoder into a folder.

    Raises:
        FileExistsError: the folder exists.
        ValueError: the parts do not fit together, or differ from their source.
    """
    if out.exists():
        raise FileExistsError(f"{out}: exists; should be a new folder")
    target = out.absolute()
    temporary = target.with_name(temporary_name(target.name, str(os.getpid())))
    temporary.mkdir(parents=True)
    try:
        save_encoder(temporary / ENCODER)
        encoder = load_encoder(temporary / ENCODER, layer)
        name = target / ENCODER
        real_root = root.resolve()
        shared = {
            "hubert_model_name": str(name.relative_to(real_root) if name.is_relative_to(real_root) else name),
            "hubert_revision": None,
            "hubert_layer": layer,
        }
        if adapter is not None:  # whose file has the encoder
            licence, is_non_commercial = adapter.record.licence, adapter.record.is_non_commercial
        else:
            known = non_commercial_part(encoder_source)
            licence, is_non_commercial = ("", False) if known is None else (" is ".join(known), True)
        terms = {"licence": licence, "is_non_commercial": is_non_commercial}
        of_encoder = {"kind": ENCODER, "file": encoder_source, **terms}
        (temporary / ENCODER / IMPORTED).write_text(json.dumps(of_encoder, indent=2) + "\n")
        described: dict[str, Any] = {
            "format": FORMAT,
            ENCODER: {"source": encoder_source, "layer": layer, "sha256": encoder.digest, **terms},
        }
        for part, published in ((ADAPTER, adapter), (VOCODER, vocoder)):
            if published is not None:
                model = {"adapter_hidden_dim": None, **shared, **published.model}
                _write_published(temporary / part, f"{target.name}/{part}", model, published, encoder)
                described[part] = published.record.as_dict()
        (temporary / IMPORTED).write_text(json.dumps(described, indent=2) + "\n")
        for path in sorted(temporary.rglob("*")):
            if path.is_file():  # safetensors lets their owner alone read what it writes
                shutil.copymode(temporary / IMPORTED, path)
            fsync(path)
        temporary.rename(target)
        fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return described


def _write_published(
    folder: Path, name: str, model: dict[str, Any], published: Published, encoder: SpeechEncoder
) -> None:
    """Write one published folder, and read it back."""
    folder.mkdir()
    statistics = {"normaliser.mean": torch.zeros(encoder.dim), "normaliser.std": torch.ones(encoder.dim)}
    for file, tensors in published.weights.items():
        plain = {key: value.contiguous() for key, value in tensors.items()}
        save_file(plain | statistics if file == "final" else plain, folder / f"{file}.safetensors")
    config = {"name": name, "steps": published.record.step, "model": model}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    written = WeightsFile(folder / "final.safetensors", "import it again")
    if model["adapter_hidden_dim"] is not None:
        encoder.add_adapters(model["adapter_hidden_dim"])
        encoder.load_adapter_state_dict(written.tensors("adapters."))
        network: Any = encoder
    else:
        network = written.vocoder("generator.", "normaliser.", model, encoder.dim, folder / "config.yaml")
    if published.check is not None:
        published.record.checked = published.check(network)
    (folder / IMPORTED).write_text(json.dumps(published.record.as_dict(), indent=2) + "\n")
