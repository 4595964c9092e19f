"""Loads an encoder's first layers from a local folder or the Hugging Face hub.

Knows transformers' HuBERT, WavLM, wav2vec 2.0 and w2v-BERT 2.0.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from miipher2.config.schema import as_layers
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd, log_mel_front_end

# By model_type, since WavLM loaded as a HubertModel is wrong without an error.
MODELS: dict[str, Any] = {
    "hubert": transformers.HubertModel,
    "wavlm": transformers.WavLMModel,
    "wav2vec2": transformers.Wav2Vec2Model,
    "wav2vec2-bert": transformers.Wav2Vec2BertModel,
}
ATTENTION = "miipher2_sdpa"


class EncoderUnavailableError(OSError):
    """The encoder is neither a local folder nor available from the hub."""


def load_encoder(
    name_or_folder: str | Path, layer: int | Sequence[int], *, revision: str | None = None
) -> SpeechEncoder:
    """Load an encoder up to a layer.

    Args:
        name_or_folder: a local folder as transformers writes it, or a name on the Hugging Face hub.
        layer: from 1 to the number of layers; the features are `hidden_states[layer]` of the full model. Several,
            ascending, give their features side by side.
        revision: commit, tag or branch of the hub repository.

    Raises:
        EncoderUnavailableError: there is no such folder, and the hub has no such model or cannot be reached.
        ValueError: it is an unsupported model, has fewer layers, or its file lacks a weight.
    """
    name, layers = str(name_or_folder), as_layers(layer)
    try:
        fields, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision)
        if not fields:
            raise FileNotFoundError(f"{name}: no config.json")
        model_type = fields.get("model_type")
        if model_type not in MODELS:
            raise ValueError(f"{name}: model_type {model_type!r}; should be one of {', '.join(MODELS)}")
        config = MODELS[model_type].config_class.from_pretrained(name, revision=revision)
        model = _load_first_layers(name, config, layers[-1], revision)
        preprocessor = cached_file(
            name, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise EncoderUnavailableError(
            f"{name}: no encoder there; should be a local folder with config.json and model.safetensors, or a name on "
            f"the Hugging Face hub (which needs network, or `hf download {name}` beforehand)"
        ) from error
    front_end: WaveFrontEnd | LogMelFrontEnd
    if model_type == "wav2vec2-bert":
        front_end = log_mel_front_end(config)
    else:
        normalise = preprocessor is not None and json.loads(Path(preprocessor).read_text()).get("do_normalize", True)
        front_end = WaveFrontEnd(
            model.feature_extractor.conv_layers, config.conv_kernel, config.conv_stride, bool(normalise)
        )
        if config.do_stable_layer_norm:
            # It follows the last layer of the full model and is no part of hidden_states.
            model.encoder.layer_norm = nn.Identity()
    return SpeechEncoder(front_end, model.feature_projection, model.encoder, layers)


def _load_first_layers(name: str, config: Any, layers: int, revision: str | None) -> Any:
    """Return the transformers model with its first `layers` layers, in float32."""
    if not 1 <= layers <= config.num_hidden_layers:
        raise ValueError(f"{name} has {config.num_hidden_layers} layers; layer {layers} should be from 1 to that")
    config.num_hidden_layers = layers
    # Modules after the layers, and the embedding of masked frames, would never run.
    config.use_intermediate_ffn_before_adapter = False
    config.add_adapter = False
    config.mask_time_prob = config.mask_feature_prob = 0.0
    with _quiet():
        model, info = MODELS[config.model_type].from_pretrained(
            name, config=config, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name}: its file has no {', '.join(missing[:3])} ({len(missing)} missing); should have all")
    if model.config._attn_implementation == "sdpa":  # not WavLM's, which has an attention of its own
        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION, key_mask)
        model.config._attn_implementation = ATTENTION
    return model


def key_mask(
    *, q_length: Any, attention_mask: Bool[Tensor, "batch key"] | None = None, **_: Any
) -> Bool[Tensor, "batch 1 query key"] | None:
    """Return which keys each query may attend to: the valid ones; None without a mask.

    transformers' own mask for SDPA first checks whether anything is masked, and so waits for the device in each pass.

    Args:
        q_length: number of queries; a tensor where the model is traced.
    """
    if attention_mask is None:
        return None
    return attention_mask[:, None, None].expand(-1, 1, q_length, -1).contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing the weights of the layers that are cut off on purpose."""
    verbosity, has_progress_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_progress_bar:
            transformers_logging.enable_progress_bar()
