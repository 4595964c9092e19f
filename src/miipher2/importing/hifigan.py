"""HiFi-GAN on features of an encoder, with its discriminators: of ssl-vocoders and of the original Miipher-2 code."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.importing.conformer import FIRST as CONFORMER
from miipher2.importing.conformer import ConformerTensors
from miipher2.importing.source import Record, SourceTensors, describe, value_at, whole_number, whole_numbers
from miipher2.importing.torch_file import SourceError
from miipher2.importing.vocoder import ImportedVocoder, check_frame_rate
from miipher2.models.vocoder.discriminators import Discriminators
from miipher2.models.vocoder.generator import Generator
from miipher2.models.vocoder.hifigan import upsample_shape
from miipher2.models.vocoder.registry import build_generator

STATE, CONFIG = "state_dict", "hyper_parameters.cfg"
GENERATOR, PERIODS_PART, SCALES_PART = "generator", "multi_period_discriminator", "multi_scale_discriminator"
PERIODS = (2, 3, 5, 7, 11)  # of every such file; weights do not show them
ALIGNED_BIAS_SECONDS = 0.0025  # what our padding of 40 samples amounts to
OWN_LICENCE = "that of whoever trained it; the released checkpoints are cc-by-nc-4.0"
RELEASED_STEP = 137_108  # of epoch=77-step=137108.ckpt, the original's released vocoder
RELEASED_LICENCE = "cc-by-nc-4.0, as the hub page of the released checkpoints says: no commercial use"
KIND = "HiFi-GAN on features of an encoder"
LICENCE = "MIT (ssl-vocoders); your own training's is yours, and the encoder has one of its own"


def is_hifigan(content: Any) -> bool:
    """Return whether a file is a Lightning checkpoint of such a vocoder."""
    state = value_at(content, STATE)
    return isinstance(state, dict) and any(str(name).startswith(f"{GENERATOR}.conv_pre.") for name in state)


def import_hifigan(path: Path, content: Any, sha256: str) -> ImportedVocoder:
    """Return the generator of a file, its weight norm folded, and its discriminators, ready to train.

    Raises:
        SourceError: it is of another frame rate or shape, or a key is missing, of another shape or not known.
    """
    tensors = SourceTensors(path, content[STATE], STATE)
    config = value_at(content, CONFIG)
    dim, sample_rate_hz, sizes = _read_sizes(path, config)
    conformer = ConformerTensors(tensors, config) if tensors.has(CONFORMER) else None
    if conformer is not None:
        sizes |= {"kind": "conformer_hifigan", **conformer.sizes}
    with torch.device("meta"):  # sizes come from the file, and are compared before any memory is taken
        try:
            generator = build_generator(dim=dim, sample_rate_hz=sample_rate_hz, **sizes)
        except (ValueError, RuntimeError) as error:  # the latter where the sizes overflow
            raise SourceError(f"{path}: {CONFIG}.model.generator: {error}") from None
    weights = take_generator(tensors, generator, len(sizes["kernels"]), conformer)
    discriminators, described = take_discriminators(tensors)
    tensors.leave_out("what only the source's training loss needs", ["preprocessor."])
    tensors.check_all_used()
    record = Record(KIND, path.name, sha256, licence=LICENCE, left_out=tensors.left_out)
    record.add_checkpoint(content, "global_step", (STATE, "hyper_parameters"))
    record.not_exact = _alignment(value_at(config, "data.target_feature.bias"))
    if conformer is not None:
        record.kind = f"{KIND}, behind {len(conformer.layers)} conformer layers, as the original Miipher-2 code has it"
        record.is_non_commercial = record.step == RELEASED_STEP
        record.licence = RELEASED_LICENCE if record.is_non_commercial else OWN_LICENCE
        record.not_exact.append(
            "its conformer layers attend to windows (restore's --window-seconds) of the recording with its mirror "
            "image at both ends, not to all of the recording alone; trained on, they have no dropout, and their batch "
            "norms stay as they are"
        )
    return ImportedVocoder(
        weights,
        discriminators,
        {"sample_rate_hz": sample_rate_hz, "generator": sizes, **described},
        dim,
        record,
        *_find_encoder(config),
    )


def take_generator(
    tensors: SourceTensors, generator: Generator, kernels: int, conformer: ConformerTensors | None
) -> dict[str, Tensor]:
    """Return the weights of a generator of these shapes, as `published/` names them."""
    weights = {}
    for name, shape in {name: tensor.shape for name, tensor in generator.exported_state_dict().items()}.items():
        if conformer is not None and (taken := conformer.take(name, shape)) is not None:
            weights[f"generator.{name}"] = taken
            continue
        module, _, part = name.rpartition(".")
        source = f"{GENERATOR}.{_source_name(module, kernels)}"
        take = tensors.take_weight if part == "weight" else tensors.take
        weights[f"generator.{name}"] = take(source if part == "weight" else f"{source}.{part}", shape)
    return weights


def _source_name(module: str, kernels: int) -> str:
    """Return the source's name of one of our modules; it counts residual blocks through all upsamplings."""
    if found := re.fullmatch(r"blocks\.(\d+)\.blocks\.(\d+)\.(dilated|plain)\.(\d+)", module):
        upsample, kernel, kind, number = found.groups()
        return f"resblocks.{int(upsample) * kernels + int(kernel)}.convs{1 if kind == 'dilated' else 2}.{number}"
    return module.replace("first", "conv_pre").replace("upsamples", "ups").replace("last", "conv_post")


def take_discriminators(tensors: SourceTensors) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """Return the discriminators, or None where the file has none, and the `model` section's part on them.

    Raises:
        SourceError: there are others than five periods and some scales, or of other shapes.
    """
    counts = [_count(tensors, part) for part in (PERIODS_PART, SCALES_PART)]
    if not any(counts):
        return None, {}
    if counts[0] != len(PERIODS) or not counts[1]:
        raise SourceError(
            f"{tensors.path}: has {counts[0]} discriminators of periods and {counts[1]} of scales; "
            f"should have {len(PERIODS)} ({', '.join(map(str, PERIODS))}) and at least 1"
        )
    first = f"{PERIODS_PART}.discriminators.0.convs"
    channels, max_channels = (_channels(tensors, f"{first}.{number}") for number in (0, 4))
    described = {
        "periods": list(PERIODS),
        "scales": counts[1],
        "resolutions": [],
        "channels": channels,
        "max_channels": max_channels,
        "input_scale": 1.0,
    }
    with torch.device("meta"):
        ours = Discriminators(PERIODS, counts[1], (), channels, max_channels)
    weights: dict[str, Tensor] = {}
    for number, part in enumerate((PERIODS_PART, SCALES_PART)):
        stacks: Any = ours.parts[number].stacks
        for index, stack in enumerate(stacks):
            layers = {f"layers.{i}": (f"convs.{i}", layer) for i, layer in enumerate(stack.layers)}
            for name, (source, layer) in {**layers, "last": ("conv_post", stack.last)}.items():
                taken = _take_layer(tensors, f"{part}.discriminators.{index}.{source}", layer)
                weights |= {f"parts.{number}.stacks.{index}.{name}.{key}": value for key, value in taken.items()}
    return weights, {"discriminator": described}


def _take_layer(tensors: SourceTensors, source: str, layer: Any) -> dict[str, Tensor]:
    """Return a convolution's tensors in the form in which it is trained here: weight norm or spectral norm."""
    state = {name: tensor.shape for name, tensor in layer.state_dict().items()}
    taken = {"bias": tensors.take(f"{source}.bias", state["bias"])}
    names = {
        "parametrizations.weight.original": "weight_orig",
        "parametrizations.weight.0._u": "weight_u",
        "parametrizations.weight.0._v": "weight_v",
    }
    if "parametrizations.weight.original" in state:
        return taken | {
            ours: tensors.take(
                f"{source}.{older}" if tensors.has(f"{source}.{older}") else f"{source}.{ours}", state[ours]
            )
            for ours, older in names.items()
        }
    shape = state["parametrizations.weight.original1"]
    normed = tensors.weight_norm(source, shape)
    if normed is None:
        weight = tensors.take(f"{source}.weight", shape)
        normed = torch.norm_except_dim(weight, 2, 0), weight
    return taken | {f"parametrizations.weight.original{number}": value for number, value in enumerate(normed)}


def _count(tensors: SourceTensors, part: str) -> int:
    pattern = re.compile(rf"{part}\.discriminators\.(\d{{1,4}})\.")
    return len({found[1] for name in tensors.names if (found := pattern.match(name))})


def _channels(tensors: SourceTensors, source: str) -> int:
    """Return how many channels a convolution makes."""
    names = ("weight_v", "weight", "parametrizations.weight.original1")
    name = next((f"{source}.{part}" for part in names if tensors.has(f"{source}.{part}")), f"{source}.weight_v")
    return tensors.sizes(name, 4)[0]


def _read_sizes(path: Path, config: Any) -> tuple[int, int, dict[str, Any]]:
    """Return size of a feature, sample rate and the other settings of our generator, from the source's configuration.

    Raises:
        SourceError: one is missing, or cannot be expressed by our generator.
    """
    if config is None:
        raise SourceError(f"{path}: has no {CONFIG}; should be a Lightning checkpoint, whose sizes are there")

    def name(key: str) -> str:
        return f"model.generator.{key}"

    def numbers(key: str) -> list[int]:
        return whole_numbers(path, name(key), value_at(config, name(key)))

    rate = whole_number(path, "sample_rate", value_at(config, "sample_rate"))
    factors, kernels = numbers("upsample_rates"), numbers("resblock_kernel_sizes")
    check_frame_rate(path, rate, math.prod(factors))
    per_second = value_at(config, "data.target_feature.samples_per_sec")
    if per_second not in (None, FRAMES_PER_SECOND):
        raise SourceError(f"{path}: data.target_feature.samples_per_sec is {describe(per_second)}; should be 50")
    if str(kind := value_at(config, name("resblock"))) != "1":
        raise SourceError(f"{path}: {name('resblock')} is {describe(kind)}; should be 1")
    expected = [upsample_shape(factor)[0] for factor in factors]
    if (found := numbers("upsample_kernel_sizes")) != expected:
        raise SourceError(f"{path}: {name('upsample_kernel_sizes')} is {found}; should be {expected} for {factors}")
    dilations = value_at(config, name("resblock_dilation_sizes"))
    rows = dilations if isinstance(dilations, list | tuple) and len(dilations) == len(kernels) else [None]
    dilations = [whole_numbers(path, name("resblock_dilation_sizes"), row) for row in rows]
    if any(row != dilations[0] for row in dilations):
        raise SourceError(f"{path}: {name('resblock_dilation_sizes')} is {dilations}; should be equal for each kernel")
    dim, channels = (
        whole_number(path, name(key), value_at(config, name(key)))
        for key in ("num_input_channels", "upsample_initial_channel")
    )
    return (
        dim,
        rate,
        {
            "kind": "hifigan",
            "channels": channels,
            "upsample_factors": factors,
            "kernels": kernels,
            "dilations": dilations[0],
        },
    )


def _alignment(bias: Any) -> list[str]:
    """Return by how much the output is late: features begin 40 samples earlier here than the source's."""
    if type(bias) not in (int, float):
        return ["its configuration has no data.target_feature.bias; the output may be 2.5 ms late"]
    late = 1000 * (ALIGNED_BIAS_SECONDS - bias)
    if abs(late) < 0.01:
        return []
    return [f"the output is {late:g} ms late, since the source was trained with a bias of {bias:g} s"]


def _find_encoder(config: Any) -> tuple[dict[str, int], str | None]:
    """Return which layer and which encoder the configuration names, and where; places may disagree."""
    feature = value_at(config, "data.target_feature")
    key, layer = value_at(feature, "key"), value_at(feature, "layer")
    layers = {"data.target_feature.layer": layer} if type(layer) is int else {}
    if isinstance(key, str) and (found := re.search(r"[-_]l?(\d{1,3})(\.\w+)?$", key)):
        layers["data.target_feature.key"] = int(found[1])
    models = value_at(config, "preprocess.ssl_models")
    encoder = None
    for entry in models if isinstance(models, list | tuple) else ():
        parts = [part for part in entry if isinstance(part, dict)] if isinstance(entry, list | tuple) else []
        if isinstance(key, str) and any(part.get("key") == key for part in parts):
            stated = [part["layer"] for part in parts if type(part.get("layer")) is int]
            layers |= {"preprocess.ssl_models": stated[0]} if stated else {}
            names = [part.get("pretrained_model_name_or_path") for part in parts]
            encoder = next((name for name in names if isinstance(name, str)), None)
    return layers, encoder
