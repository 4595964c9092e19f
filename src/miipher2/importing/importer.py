"""Imports files: tells what each is from its keys, and writes published folders."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from miipher2.atomic_io import sha256_of
from miipher2.config.paths import folder_or_hub_name
from miipher2.importing.adapter import ImportedAdapter, add_moments, import_adapter, is_adapter
from miipher2.importing.check import check_decoder, check_encoder
from miipher2.importing.encoder import check_layer, read_config
from miipher2.importing.hifigan import import_hifigan, is_hifigan
from miipher2.importing.output import Published, write
from miipher2.importing.sidon import (
    import_sidon_decoder,
    import_sidon_encoder,
    is_lora,
    is_sidon_decoder,
    is_sidon_encoder,
)
from miipher2.importing.sidon_program import read_sidon_program
from miipher2.importing.source import describe, value_at
from miipher2.importing.torch_file import SourceError, read_file
from miipher2.importing.torchscript import PROGRAM, is_program
from miipher2.importing.vocoder import ImportedVocoder, check_known
from miipher2.importing.vocos import import_vocos, is_vocos
from miipher2.models.encoder.from_pretrained import EncoderUnavailableError
from miipher2.models.encoder.transformers_models import save_first_layers

ADAPTERS = ((is_adapter, import_adapter), (is_sidon_encoder, import_sidon_encoder))
VOCODERS = ((is_hifigan, import_hifigan), (is_vocos, import_vocos), (is_sidon_decoder, import_sidon_decoder))


@dataclass(frozen=True)
class Sources:
    """What is imported.

    Args:
        adapter, vocoder: files of other projects; at least one.
        encoder: folder or hub name; None for the one that the files name.
        layer: of the encoder; None for the one that the files name.
        has_optimizer: the optimizer's moments of the adapters too.
        is_checked: compare with TorchScript programs among the files, whose code is run for it.
    """

    adapter: Path | None
    vocoder: Path | None
    encoder: str | None
    layer: int | None
    has_optimizer: bool = False
    is_checked: bool = False


def import_weights(out: Path, sources: Sources, root: Path) -> dict[str, Any]:
    """Import files into a new folder, and return the content of its `imported.json`.

    Args:
        root: the repository, where the relative folder of an encoder starts.

    Raises:
        FileNotFoundError: a file is missing.
        EncoderUnavailableError: the encoder is.
        SourceError: a file is none that can be imported; says why.
        ValueError: the parts do not fit together.
    """
    encoder = None if sources.encoder is None else str(folder_or_hub_name(sources.encoder, root))
    files = [each for each in (sources.adapter, sources.vocoder) if each is not None]
    contents = {path: _read(path) for path in dict.fromkeys(files)}
    programs = {path: program for path, each in contents.items() if (program := value_at(each, PROGRAM)) is not None}
    if sources.is_checked and not programs:
        raise ValueError(f"--check: compares with a TorchScript program; {files[0]} is none")
    adapter = None if sources.adapter is None else _read_adapter(sources.adapter, contents[sources.adapter], encoder)
    if sources.has_optimizer:
        if adapter is None:
            raise ValueError("--optimizer: is for adapters; should come with --adapter")
        assert sources.adapter is not None
        add_moments(sources.adapter, contents[sources.adapter], adapter)
    vocoder = None if sources.vocoder is None else _read_vocoder(sources.vocoder, contents[sources.vocoder])
    layer = _choose_layer(sources, adapter, vocoder)
    if adapter is not None:
        dim, name = adapter.dim, f"in {adapter.record.file}"
    else:
        assert vocoder is not None
        if (name := encoder or vocoder.encoder or "") == "":
            raise ValueError(f"{sources.vocoder}: does not name its encoder; add --encoder, a folder or a hub name")
        settings = read_config(name)
        check_layer(name, settings, layer)
        dim = settings.get("hidden_size", 768)
    if vocoder is not None and vocoder.dim != dim:
        raise ValueError(f"{sources.vocoder}: takes {vocoder.dim} values a frame; the encoder ({name}) gives {dim}")

    published: dict[str, Published | None] = {
        "adapter": None if adapter is None else _publish_adapter(adapter),
        "vocoder": None if vocoder is None else _publish_vocoder(vocoder),
    }
    if sources.is_checked:
        for part, path in (("adapter", sources.adapter), ("vocoder", sources.vocoder)):
            if path in programs and (found := published[part]) is not None:
                check = check_encoder if part == "adapter" else partial(check_decoder, dim=dim)
                found.check = partial(check, programs[path])
    return write(
        out,
        root,
        layer=layer,
        save_encoder=partial(_copy_encoder, name, layer, vocoder) if adapter is None else adapter.save_encoder,
        encoder_source=name,
        **published,
    )


def _read(path: Path) -> Any:
    return read_sidon_program(path) if is_program(path) else read_file(path)


def _copy_encoder(name: str, layer: int, vocoder: ImportedVocoder | None, folder: Path) -> None:
    """Write a copy of an encoder, which frames as the vocoder's source does."""
    try:
        save_first_layers(name, layer, None, folder, torch.float32)
    except OSError as error:
        raise EncoderUnavailableError(f"--encoder {name}: has a config.json, but no weights ({error})") from error
    if vocoder is not None and vocoder.front_end is not None:
        config = folder / "config.json"
        settings = json.loads(config.read_text())
        config.write_text(json.dumps({**settings, "miipher2_front_end": vocoder.front_end(settings)}, indent=2) + "\n")


def _read_adapter(path: Path, content: Any, encoder: str | None) -> ImportedAdapter:
    for is_kind, read in ADAPTERS:
        if is_kind(content):
            return read(path, content, sha256_of(path), encoder)
    if is_lora(content):
        raise SourceError(
            f"{path}: is Sidon's LoRA alone, without the biases that were trained beside it; "
            "should be a training checkpoint, which has them"
        )
    raise SourceError(f"{path}: is {describe(content)}; should hold adapters, named adapters.0.…")


def _read_vocoder(path: Path, content: Any) -> ImportedVocoder:
    check_known(path, content)
    for is_kind, read in VOCODERS:
        if is_kind(content):
            return read(path, content, sha256_of(path))
    raise SourceError(f"{path}: is {describe(content)} of no known vocoder; docs/import.md lists those that are")


def _choose_layer(sources: Sources, adapter: ImportedAdapter | None, vocoder: ImportedVocoder | None) -> int:
    """Return the encoder's layer that all agree on, or that the user states where a file disagrees with itself."""
    named = {} if vocoder is None else vocoder.layers
    if adapter is not None:
        if sources.layer not in (None, adapter.layer):
            raise ValueError(f"--layer {sources.layer}: {sources.adapter} has {adapter.layer} adapters; should be that")
        if named and sources.layer is None and set(named.values()) != {adapter.layer}:
            raise ValueError(
                f"{sources.adapter} is for layer {adapter.layer}, {sources.vocoder} for {_list(named)}; should be one "
                f"layer; --layer {adapter.layer} imports them all the same"
            )
        layer = adapter.layer
    elif sources.layer is not None:
        layer = sources.layer
    elif len(set(named.values())) == 1:
        layer = next(iter(named.values()))
    else:
        raise ValueError(f"{sources.vocoder}: names {_list(named)} as its encoder's layer; add --layer N")
    if vocoder is not None and named and set(named.values()) != {layer}:
        vocoder.record.not_exact.append(f"its configuration names layer {_list(named)}; {layer} was stated")
    return layer


def _list(layers: dict[str, int]) -> str:
    """Return which layers are named, and where."""
    return " and ".join(f"{layer} ({key})" for key, layer in layers.items()) or "none"


def _publish_adapter(adapter: ImportedAdapter) -> Published:
    return Published({"adapter_hidden_dim": adapter.hidden_dim}, {"final": adapter.tensors}, adapter.record)


def _publish_vocoder(vocoder: ImportedVocoder) -> Published:
    weights = {"final": vocoder.tensors}
    if vocoder.discriminators is not None:
        weights["discriminators"] = vocoder.discriminators
    return Published(vocoder.model, weights, vocoder.record)
