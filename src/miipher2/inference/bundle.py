"""A bundle: one folder that restores, with weights, settings and lineage, and the encoder or a reference to it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from miipher2.atomic_io import temporary_name
from miipher2.config.paths import folder_or_hub_name
from miipher2.inference.weights import Weights, WeightsFile

FORMAT = 1
CONFIG, WEIGHTS, ENCODER = "bundle.json", "weights.safetensors", "encoder"
DISCRIMINATORS = "discriminators.safetensors"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def save_bundle(
    weights: Weights, folder: Path, *, precision: str, encoder_from: str | None, discriminators: Path | None = None
) -> None:
    """Write weights as a bundle; the folder appears when it is whole.

    Args:
        precision: of the stored weights, "fp32" or "bf16"; statistics of features stay in float32.
        encoder_from: folder or hub name of the encoder, which is cut at its layer and included; None writes a
            reference.
        discriminators: a file of them to include, so that the vocoder can be trained on.

    Raises:
        FileExistsError: the folder exists already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: exists; should be a new folder")
    temporary = folder.with_name(temporary_name(folder.name, str(os.getpid())))
    temporary.mkdir(parents=True)
    try:
        tensors = {
            name: tensor.detach().cpu().to(torch.float32 if "normaliser" in name else DTYPES[precision]).contiguous()
            for name, tensor in weights.tensors().items()
        }
        save_file(tensors, temporary / WEIGHTS)
        if discriminators is not None:
            stored = {name: tensor.to(DTYPES[precision]) for name, tensor in load_file(discriminators).items()}
            save_file(stored, temporary / DISCRIMINATORS)
        if encoder_from is not None:
            from miipher2.models.encoder.transformers_models import save_first_layers

            revision = weights.settings.get("hubert_revision") if not Path(encoder_from).is_dir() else None
            save_first_layers(
                encoder_from, weights.encoder.layers[-1], revision, temporary / ENCODER, DTYPES[precision]
            )
        description = {
            "format": FORMAT,
            "precision": precision,
            "encoder": "reference" if encoder_from is None else "included",
            "settings": weights.settings,
            "lineage": weights.lineage,
        }
        (temporary / CONFIG).write_text(json.dumps(description, indent=2) + "\n")
        for path in temporary.rglob("*.safetensors"):  # which safetensors lets their owner alone read
            shutil.copymode(temporary / CONFIG, path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_bundle(folder: Path, root: Path) -> Weights:
    """Return the weights of a bundle, in float32.

    Args:
        root: where the relative folder of an encoder that the bundle refers to starts.

    Raises:
        FileNotFoundError: a file is missing.
        EncoderUnavailableError: the encoder that it refers to is unavailable.
        ValueError: it is damaged, of another format, or refers to an encoder that has changed.
    """
    config = folder / CONFIG
    for path in (config, folder / WEIGHTS):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; should be in {folder}, a bundle that `miipher2 export` wrote")
    try:
        description: dict[str, Any] = json.loads(config.read_text())
        bundle_format, settings = description["format"], description["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config}: does not describe a bundle ({error!r}); export it again") from error
    if bundle_format != FORMAT:
        raise ValueError(f"{config}: has the format {bundle_format}; should be {FORMAT}: export it again")
    file = WeightsFile(folder / WEIGHTS, "export it again")
    is_included = description["encoder"] == "included"
    name = folder / ENCODER if is_included else folder_or_hub_name(settings["hubert_model_name"], root)
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        revision = None if is_included else settings["hubert_revision"]
        encoder = file.encoder("adapters.", name, {**settings, "hubert_revision": revision})
        vocoder = file.vocoder("vocoder.generator.", "vocoder.normaliser.", settings, encoder.dim, config)
    expected = description["lineage"].get("encoder", {}).get("sha256")
    if not is_included and expected is not None and expected != encoder.digest:
        raise ValueError(f"{name}: the encoder's sha256 is {encoder.digest}; {folder} was exported for {expected}")
    return Weights(encoder, file.normaliser("normaliser.", encoder.dim), vocoder, settings, description["lineage"])
