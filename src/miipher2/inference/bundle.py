"""One folder that restores: weights, settings and lineage, with the encoder or a reference to it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers.utils import cached_file

from miipher2.inference.weights import Vocoder, Weights, WeightsFile
from miipher2.models.encoder.from_pretrained import MODELS

FORMAT = 1
CONFIG, WEIGHTS, ENCODER = "bundle.json", "weights.safetensors", "encoder"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def save_bundle(weights: Weights, folder: Path, *, precision: str, encoder_from: str | None) -> None:
    """Write weights as a bundle; the folder appears when it is whole.

    Args:
        precision: in which weights are stored, "fp32" or "bf16"; statistics of features stay in float32.
        encoder_from: the encoder, a folder or a name on the hub, that is put into the bundle, cut; None leaves a
            reference.

    Raises:
        FileExistsError: the folder is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: exists; a bundle is written into a new folder")
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    making.mkdir(parents=True)
    try:
        tensors = {
            name: tensor.detach().cpu().to(torch.float32 if "normaliser" in name else DTYPES[precision]).contiguous()
            for name, tensor in weights.tensors().items()
        }
        save_file(tensors, making / WEIGHTS)
        if encoder_from is not None:
            _save_encoder(weights, encoder_from, making / ENCODER, DTYPES[precision])
        said = {
            "format": FORMAT,
            "precision": precision,
            "encoder": "included" if encoder_from is not None else "reference",
            "settings": weights.settings,
            "lineage": weights.lineage,
        }
        (making / CONFIG).write_text(json.dumps(said, indent=2) + "\n")
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def load_bundle(folder: Path, root: Path) -> Weights:
    """Return the weights of a bundle, in float32.

    Args:
        root: the repository, from which the folder of an encoder that the bundle refers to is taken.

    Raises:
        FileNotFoundError: a file is missing.
        EncoderUnavailableError: the encoder that it refers to is not to be had.
        ValueError: it is damaged, of another format, or refers to an encoder that has changed.
    """
    for file_name in (CONFIG, WEIGHTS):
        if not (folder / file_name).is_file():
            raise FileNotFoundError(f"{folder / file_name}: missing; is {folder} what `miipher2 export` wrote?")
    try:
        said: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        found, settings = said["format"], said["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: is no bundle's ({error!r}); export it again") from error
    if found != FORMAT:
        raise ValueError(f"{folder / CONFIG}: has the format {found}; this version reads {FORMAT}")
    file = WeightsFile(folder / WEIGHTS, "export it again")
    is_included = said["encoder"] == "included"
    named = settings["hubert_model_name"]
    elsewhere: str | Path = root / named if (root / named).is_dir() else named
    name, revision = (folder / ENCODER, None) if is_included else (elsewhere, settings["hubert_revision"])
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        encoder = file.encoder("adapters.", name, settings["hubert_layer"], settings["adapter_hidden_dim"], revision)
        numbers = {"dim": encoder.dim, "sample_rate_hz": settings["sample_rate_hz"], **settings["generator"]}
        generator = file.generator("vocoder.generator.", folder / CONFIG, numbers)
    wanted = said["lineage"].get("encoder", {}).get("sha256")
    if not is_included and wanted is not None and wanted != encoder.digest:
        raise ValueError(f"{name}: the encoder's sha256 is {encoder.digest}; {folder} was exported for {wanted}")
    return Weights(
        encoder,
        file.normaliser("normaliser.", encoder.dim),
        Vocoder(file.normaliser("vocoder.normaliser.", encoder.dim), generator),
        settings,
        said["lineage"],
    )


def _save_encoder(weights: Weights, name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write the encoder, cut at its layer, as transformers does."""
    revision = weights.settings.get("hubert_revision") if not Path(name).is_dir() else None
    found, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision)
    model_class = MODELS[found["model_type"]]
    config = model_class.config_class.from_pretrained(name, revision=revision)
    config.num_hidden_layers = weights.encoder.layers[-1]
    model = model_class.from_pretrained(name, config=config, revision=revision, dtype=dtype)
    model.save_pretrained(folder)
    extractor = cached_file(
        name, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if extractor is not None:
        shutil.copyfile(extractor, folder / "preprocessor_config.json")
