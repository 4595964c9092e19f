"""Sidon (sarulab-speech): its w2v-BERT 2.0 with LoRA merged, and its decoder, of training checkpoints and programs."""

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miipher2.importing.adapter import ImportedAdapter
from miipher2.importing.encoder import read_config
from miipher2.importing.source import Record, SourceTensors, value_at, whole_number
from miipher2.importing.torch_file import SourceError
from miipher2.importing.torchscript import PROGRAM
from miipher2.importing.vocoder import ImportedVocoder, check_frame_rate
from miipher2.models.encoder.adapter import Adapter
from miipher2.models.encoder.conformer import check_layers
from miipher2.models.encoder.transformers_models import MODELS, save_model
from miipher2.models.vocoder.dac import Dac

STATE, STUDENT, DECODER = "state_dict", "student_ssl_model.", "decoder."
NUMBERS, RECIPROCALS = "constants.number.", "constants.reciprocal."  # of its programs, beside their weights
ALPHA = 16  # of its LoRA; checkpoints do not hold it
DILATIONS = (1, 3, 9)  # of its decoder; weights do not show them
# It pads 40 values on each side, so that a frame begins 80 values later than ours.
SHIFT_SAMPLES = 80
HIDDEN_DIM = 64  # of adapters that add nothing yet
RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
LICENCE = "Sidon's code is MIT, and so are the weights according to those who pass them on"
PARTS = {"0": "first_snake", "1": "dilated", "2": "second_snake", "3": "plain"}


def is_sidon_encoder(content: Any) -> bool:
    """Return whether a file is a training checkpoint with an encoder under LoRA, or the release's program of one."""
    state = value_at(content, STATE)
    names = [str(name) for name in state if str(name).startswith(STUDENT)] if isinstance(state, dict) else []
    return any(".lora_A." in name for name in names) or (PROGRAM in content and bool(names))


def is_lora(content: Any) -> bool:
    """Return whether a file is the release's LoRA alone, which lost the biases that were trained beside it."""
    return isinstance(content, dict) and any(str(name).startswith("base_model.model.") for name in content)


def import_sidon_encoder(path: Path, content: Any, sha256: str, encoder: str | None) -> ImportedAdapter:
    """Return the encoder of a file with its LoRA merged, and adapters that add nothing to it.

    Args:
        encoder: folder or hub name of the w2v-BERT 2.0 whose `config.json` is needed; None for the one that it names.

    Raises:
        SourceError: a key is missing, of another shape or not known.
        ValueError: no encoder is named, or it is no w2v-BERT 2.0.
    """
    tensors = SourceTensors(path, content[STATE], STATE)
    named = value_at(content, "hyper_parameters.cfg.ssl_model_name")
    name = encoder or (named if isinstance(named, str) else None)
    if name is None:
        raise ValueError(f"{path}: does not name its encoder; add --encoder, such as facebook/w2v-bert-2.0")
    settings = read_config(name)
    if settings.get("model_type") != "wav2vec2-bert":
        raise ValueError(f"--encoder {name}: model_type {settings.get('model_type')!r}; should be wav2vec2-bert")
    layers = _count(tensors, rf"{re.escape(STUDENT)}encoder\.layers\.(\d{{1,3}})\.")
    check_layers(name, settings.get("num_hidden_layers", 24), layers)
    model_type = MODELS["wav2vec2-bert"]
    changed = {
        "num_hidden_layers": layers,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        "add_adapter": False,
        "use_intermediate_ffn_before_adapter": False,
        "miipher2_front_end": front_end(settings),
    }
    kept = {key: value for key, value in settings.items() if key not in ("model_type", "architectures")}
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        model = model_type(model_type.config_class(**kept | changed))
        torch.manual_seed(0)
        dim = int(model.config.hidden_size)
        adapters = torch.nn.ModuleList(Adapter(dim, HIDDEN_DIM) for _ in range(2 * layers)).state_dict()
    model.load_state_dict({key: _take_merged(tensors, key, value.shape) for key, value in model.state_dict().items()})
    tensors.leave_out("the embedding of masked frames", [f"{STUDENT}masked_spec_embed"])
    tensors.leave_out("the decoder, which --vocoder imports", [DECODER])
    _leave_out_others(tensors)
    record = Record("the encoder of Sidon, LoRA merged", path.name, sha256, licence=LICENCE)
    record.left_out = tensors.left_out
    record.add_checkpoint(content, "global_step", (STATE, PROGRAM, "hyper_parameters"))
    record.not_exact = [
        "its LoRA is merged into the encoder, beside adapters that add nothing yet: stage 1 would train those, towards "
        "features of the merged encoder"
    ]
    return ImportedAdapter(
        {f"adapters.{key}": value for key, value in adapters.items()},
        layers,
        HIDDEN_DIM,
        dim,
        partial(save_model, model),
        record,
    )


def front_end(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the front end that frames as Sidon does, for the `config.json` of a w2v-BERT 2.0."""
    return {"mels": settings.get("feature_projection_input_dim", 160) // 2, "shift_samples": SHIFT_SAMPLES}


def _take_merged(tensors: SourceTensors, name: str, shape: Any) -> Tensor:
    """Return a weight of the encoder, with what LoRA adds to it."""
    module, _, part = (STUDENT + name).rpartition(".")
    if not tensors.has(f"{module}.base_layer.{part}"):
        return tensors.take(f"{module}.{part}", shape)
    base = tensors.take(f"{module}.base_layer.{part}", shape)
    if part != "weight":
        return base
    rank = tensors.sizes(f"{module}.lora_A.default.weight", 2)[0]
    down = tensors.take(f"{module}.lora_A.default.weight", (rank, shape[1]))
    return base + ALPHA / rank * (tensors.take(f"{module}.lora_B.default.weight", (shape[0], rank)) @ down)


def is_sidon_decoder(content: Any) -> bool:
    """Return whether a file holds a decoder, alone or in a training checkpoint."""
    return isinstance(content, dict) and _prefix(_state(content)) is not None


def import_sidon_decoder(path: Path, content: Any, sha256: str) -> ImportedVocoder:
    """Return the decoder of a file.

    Raises:
        SourceError: it is of another frame rate or form, or a key is missing, of another shape or not known.
    """
    state = _state(content)
    is_checkpoint = state is not content
    tensors = SourceTensors(path, state, STATE if is_checkpoint else "the file")
    prefix = _prefix(state)
    assert prefix is not None
    channels, dim, _ = _weight_sizes(tensors, f"{prefix}model.0")
    blocks = _count(tensors, rf"{re.escape(prefix)}model\.(\d{{1,2}})\.block\.")
    kernels = [_weight_sizes(tensors, f"{prefix}model.{number + 1}.block.1")[2] for number in range(blocks)]
    if wrong := [kernel for kernel in kernels if kernel < 2 or kernel % 2]:
        raise SourceError(f"{path}: a transposed convolution of {wrong[0]} values; should be twice its factor")
    factors = [kernel // 2 for kernel in kernels]
    hop_samples = math.prod(factors)
    stated = value_at(content, "hyper_parameters.cfg.sample_rate")
    sample_rate_hz = 50 * hop_samples if stated is None else whole_number(path, "sample_rate", stated)
    check_frame_rate(path, sample_rate_hz, hop_samples)
    if sample_rate_hz not in RATES:  # such as the codec itself, whose decoder has other frame rates
        raise SourceError(
            f"{path}: makes {hop_samples} samples of a frame, which at 50 frames a second is {sample_rate_hz} Hz; "
            f"should be one of {', '.join(map(str, RATES))} Hz"
        )
    sizes: dict[str, Any] = {"channels": channels, "upsample_factors": factors, "dilations": list(DILATIONS)}
    with torch.device("meta"):
        try:
            generator = Dac(dim, sample_rate_hz, **sizes)
        except ValueError as error:
            raise SourceError(f"{path}: {error}") from None
    weights = {
        f"generator.{name}": _take_ours(tensors, prefix, name, tensor.shape, blocks)
        for name, tensor in generator.exported_state_dict().items()
    }
    layers = {}
    if is_sidon_encoder(content):
        layers["student_ssl_model"] = _count(tensors, rf"{re.escape(STUDENT)}encoder\.layers\.(\d{{1,3}})\.")
    tensors.leave_out("the encoder, which --adapter imports", [STUDENT])
    _leave_out_others(tensors)
    record = Record("the decoder of Sidon", path.name, sha256, licence=LICENCE, left_out=tensors.left_out)
    if is_checkpoint:
        record.add_checkpoint(content, "global_step", (STATE, PROGRAM, "hyper_parameters"))
    missing = sum(math.prod(factors[number + 1 :]) for number, factor in enumerate(factors) if factor % 2)
    if missing:
        record.not_exact.append(f"the source's output is {missing} samples shorter, and its last two frames differ")
    model = {"sample_rate_hz": sample_rate_hz, "generator": {"kind": "dac", **sizes}}
    return ImportedVocoder(weights, None, model, dim, record, layers, front_end=front_end)


def _leave_out_others(tensors: SourceTensors) -> None:
    """Name what neither part needs, and check that nothing else is left."""
    tensors.leave_out("the teacher, which is the encoder before its training", ["teacher_ssl_model."])
    tensors.leave_out("discriminators, of another form than ours", ["discriminator."])
    tensors.leave_out("numbers of a program, such as factors", [NUMBERS])
    tensors.leave_out("reciprocals of the decoder's frequencies", [RECIPROCALS])
    tensors.check_all_used()


def _state(content: dict[Any, Any]) -> dict[Any, Any]:
    state = content.get(STATE, content)
    return state if isinstance(state, dict) else {}


def _prefix(state: dict[Any, Any]) -> str | None:
    return next((each for each in (DECODER, "") if f"{each}model.1.block.0.alpha" in state), None)


def _weight_sizes(tensors: SourceTensors, module: str) -> tuple[int, ...]:
    parts = ("weight_v", "weight", "parametrizations.weight.original1")
    name = next((f"{module}.{part}" for part in parts if tensors.has(f"{module}.{part}")), f"{module}.weight_v")
    return tensors.sizes(name, 3)


def _take_ours(tensors: SourceTensors, prefix: str, name: str, shape: Any, blocks: int) -> Tensor:
    """Return one of our tensors of the decoder."""
    module, _, part = name.rpartition(".")
    if found := re.fullmatch(r"blocks\.(\d+)\.units\.(\d+)\.(\w+)", module):
        number, unit, inner = found.groups()
        position = next(position for position, ours in PARTS.items() if ours == inner)
        source = f"model.{int(number) + 1}.block.{int(unit) + 2}.block.{position}"
    elif found := re.fullmatch(r"blocks\.(\d+)\.(snake|upsample)", module):
        source = f"model.{int(found[1]) + 1}.block.{0 if found[2] == 'snake' else 1}"
    else:
        source = f"model.{ {'first': 0, 'snake': blocks + 1, 'last': blocks + 2}[module] }"
    if part == "weight":
        return tensors.take_weight(prefix + source, shape)
    if part == "alpha":
        return tensors.take(f"{prefix}{source}.alpha", (1, *shape, 1)).flatten()
    return tensors.take(f"{prefix}{source}.{part}", shape)


def _count(tensors: SourceTensors, pattern: str) -> int:
    """Return how many different numbers names have at a place."""
    found = map(partial(re.match, pattern), tensors.names)
    return len({each[1] for each in found if each is not None})
