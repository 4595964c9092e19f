"""An encoder's files, from a hub or a folder: which model they hold, cut at a layer.

Knows transformers' HuBERT, WavLM, wav2vec 2.0 and w2v-BERT 2.0.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from miipher2.config.schema import as_layers
from miipher2.models.encoder.attention import use_unasked_masks
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd, log_mel_front_end

# WavLM loaded into HubertModel is silently wrong: the class is the one that the config names.
MODELS: dict[str, Any] = {
    "hubert": transformers.HubertModel,
    "wavlm": transformers.WavLMModel,
    "wav2vec2": transformers.Wav2Vec2Model,
    "wav2vec2-bert": transformers.Wav2Vec2BertModel,
}


class EncoderUnavailableError(OSError):
    """The encoder's files are neither in a local folder nor to be had from the hub."""


def load_encoder(
    name_or_folder: str | Path, layer: int | Sequence[int], *, revision: str | None = None
) -> SpeechEncoder:
    """Load an encoder and keep its first layers, up to `layer`.

    Args:
        name_or_folder: a local folder as transformers writes it, or a name on the Hugging Face hub.
        layer: 1 to the number of layers; the output is `hidden_states[layer]` of the full model. Several, ascending,
            give theirs side by side.
        revision: commit, tag or branch of the hub repository.

    Raises:
        EncoderUnavailableError: there is no such folder, and the hub has no such model or cannot be reached.
        ValueError: it is another kind of model, has fewer layers, or its file lacks a weight.
    """
    name, layers = str(name_or_folder), as_layers(layer)
    try:
        found, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision)
        if not found:
            raise FileNotFoundError(f"{name}: no config.json")
        model_type = found.get("model_type")
        if model_type not in MODELS:
            raise ValueError(f"{name}: model_type {model_type!r}; should be one of {', '.join(MODELS)}")
        config = MODELS[model_type].config_class.from_pretrained(name, revision=revision)
        model = _load_cut(name, config, layers[-1], revision)
        extractor = cached_file(
            name, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise EncoderUnavailableError(
            f"{name}: no encoder there (as a local folder it needs config.json and model.safetensors, as a name on the "
            f"Hugging Face hub it needs network, or `hf download {name}` beforehand); should be one or the other"
        ) from error
    front_end: WaveFrontEnd | LogMelFrontEnd
    if model_type == "wav2vec2-bert":
        front_end = log_mel_front_end(config)
    else:
        normalise = extractor is not None and bool(json.loads(Path(extractor).read_text()).get("do_normalize", True))
        front_end = WaveFrontEnd(model.feature_extractor.conv_layers, config.conv_kernel, config.conv_stride, normalise)
        if config.do_stable_layer_norm:
            # It follows the last layer of the full model and is no part of hidden_states.
            model.encoder.layer_norm = nn.Identity()
    return SpeechEncoder(front_end, model.feature_projection, model.encoder, layers)


def _load_cut(name: str, config: Any, layer: int, revision: str | None) -> Any:
    """Return the transformers model with its first `layer` layers, in float32."""
    if not 1 <= layer <= config.num_hidden_layers:
        raise ValueError(f"{name} has {config.num_hidden_layers} layers; layer {layer} should be from 1 to that")
    config.num_hidden_layers = layer
    # What stands after the layers, and the embedding of masked frames, are never heard.
    config.use_intermediate_ffn_before_adapter = False
    config.add_adapter = False
    config.mask_time_prob = config.mask_feature_prob = 0.0
    with _quiet():
        model, info = MODELS[config.model_type].from_pretrained(
            name, config=config, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name}: its file has no {', '.join(missing[:3])} ({len(missing)} missing); should have all")
    use_unasked_masks(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing the weights of the layers that are cut off on purpose."""
    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
