"""Vocos (charactr/vocos) on features of an encoder; sizes that its weights do not show are in its `config.yaml`."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml

from miipher2.importing.source import Record, SourceTensors, describe, value_at, whole_number
from miipher2.importing.torch_file import SourceError
from miipher2.importing.vocoder import ImportedVocoder, check_frame_rate
from miipher2.models.vocoder.vocos import Vocos

FIRST = "backbone.embed.weight"
NO_ENCODERS = ("feature_extractor.mel_spec.", "feature_extractor.encodec.")
LICENCE = "MIT (Vocos); your own training's is yours, and the encoder has one of its own"
NAMES = {
    "first": "backbone.embed",
    "first_norm": "backbone.norm",
    "last_norm": "backbone.final_layer_norm",
    "last": "head.out",
}
BLOCK_NAMES = {"depthwise": "dwconv", "norm": "norm", "up": "pwconv1", "down": "pwconv2"}


def is_vocos(content: Any) -> bool:
    """Return whether a file holds a Vocos, alone or in a Lightning checkpoint."""
    return isinstance(content, dict) and FIRST in _state(content)


def import_vocos(path: Path, content: Any, sha256: str) -> ImportedVocoder:
    """Return the generator of a file.

    Raises:
        SourceError: it is of another frame rate or form, or a key is missing, of another shape or not known.
    """
    state = _state(content)
    is_checkpoint = state is not content
    tensors = SourceTensors(path, state, "state_dict" if is_checkpoint else "the file")
    sample_rate_hz, hop_samples, padding = _read_settings(path, content)
    check_frame_rate(path, sample_rate_hz, hop_samples)
    if found := next((name for name in tensors.names if name.startswith(NO_ENCODERS)), None):
        raise SourceError(f"{path}: takes the output of {found}; should take features of an encoder")
    channels, dim, _ = tensors.sizes(FIRST, 3)
    if any(name.startswith(("backbone.norm.scale.", "backbone.norm.shift.")) for name in tensors.names):
        raise SourceError(f"{path}: has norms that depend on a bandwidth (AdaLayerNorm); should have plain ones")
    window_samples = tensors.sizes("head.out.weight", 2)[0] - 2
    if window_samples < 2 * hop_samples or window_samples % hop_samples:
        raise SourceError(
            f"{path}: head.out.weight is for a window of {window_samples} samples; "
            f"should be a multiple of the hop, {hop_samples}, of 2 or more"
        )
    numbers = [re.match(r"backbone\.convnext\.(\d{1,4})\.", name) for name in tensors.names]
    sizes = {
        "channels": channels,
        "hidden_channels": tensors.sizes("backbone.convnext.0.pwconv1.weight", 2)[0],
        "blocks": len({number[1] for number in numbers if number}),
        "window_frames": window_samples // hop_samples,
    }
    with torch.device("meta"):
        generator = Vocos(dim, sample_rate_hz, **sizes)
    weights = {
        f"generator.{name}": tensors.take(_source_name(name), tensor.shape)
        for name, tensor in generator.exported_state_dict().items()
    }
    if tensors.has("head.istft.window"):
        window = tensors.take("head.istft.window", (window_samples,))
        if not torch.allclose(window, torch.hann_window(window_samples), atol=1e-6):
            raise SourceError(f"{path}: head.istft.window is another window; should be Hann's")
    tensors.leave_out("discriminators, of another form than ours", ["multiperioddisc.", "multiresddisc."])
    tensors.leave_out("the source's own feature extractor", ["feature_extractor."])
    tensors.leave_out("what only the source's training loss needs", ["melspec_loss.", "melspec."])
    tensors.check_all_used()
    record = Record("Vocos on features of an encoder", path.name, sha256, licence=LICENCE, left_out=tensors.left_out)
    if is_checkpoint:
        record.add_checkpoint(content, "global_step", ("state_dict", "hyper_parameters"))
    if padding == "center":
        record.not_exact.append(
            "the output begins half a frame (10 ms) later than the source's, whose windows are centred on the "
            "beginnings of frames; the first and the last frame differ"
        )
    model = {"sample_rate_hz": sample_rate_hz, "generator": {"kind": "vocos", **sizes}}
    return ImportedVocoder(weights, None, model, dim, record)


def _state(content: dict[Any, Any]) -> dict[Any, Any]:
    state = content.get("state_dict", content)
    return state if isinstance(state, dict) else {}


def _source_name(name: str) -> str:
    """Return the source's name of one of our tensors."""
    if found := re.fullmatch(r"blocks\.(\d+)\.(\w+)(\.\w+)?", name):
        number, module, part = found.groups()
        return f"backbone.convnext.{number}." + ("gamma" if module == "scale" else f"{BLOCK_NAMES[module]}{part}")
    module, _, part = name.rpartition(".")
    return f"{NAMES[module]}.{part}"


def _read_settings(path: Path, content: dict[Any, Any]) -> tuple[int, int, str]:
    """Return sample rate, hop and padding from the `config.yaml` beside a file, a training's or a release's.

    Raises:
        SourceError: there is none, or an entry is missing or has another value.
    """
    config = path.with_name("config.yaml")
    try:
        settings = yaml.safe_load(config.read_text())
    except OSError:
        raise SourceError(f"{config}: missing; should be beside {path.name}, whose hop is in it") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{config}: is not YAML ({type(error).__name__}); should be Vocos's configuration") from None
    prefix = "model.init_args." if value_at(settings, "model.init_args.head") is not None else ""
    head, rate = f"{prefix}head.init_args", "model.init_args.sample_rate"
    if not prefix:
        rate = "feature_extractor.init_args.sample_rate"
    in_file = value_at(content, "hyper_parameters.sample_rate")
    sample_rate_hz = whole_number(config, rate, value_at(settings, rate) if in_file is None else in_file)
    hop_samples = whole_number(config, f"{head}.hop_length", value_at(settings, f"{head}.hop_length"))
    padding = value_at(settings, f"{head}.padding") or "same"
    if padding not in ("same", "center"):
        raise SourceError(f"{config}: {head}.padding is {describe(padding)}; should be same or center")
    return sample_rate_hz, hop_samples, padding
