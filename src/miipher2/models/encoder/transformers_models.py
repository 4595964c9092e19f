"""The first layers of transformers' HuBERT, WavLM, wav2vec 2.0 and w2v-BERT 2.0; importing this takes seconds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from transformers import utils
from transformers.utils import logging as transformers_logging

from miipher2.models.encoder.conformer import check_layers, check_weights, key_mask

# Losses and decoding that no encoder needs would import scikit-learn, pandas and half of SciPy: half of all the time.
with patch.multiple(utils, is_sklearn_available=lambda: False, is_scipy_available=lambda: False):
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        HubertModel,
        Wav2Vec2BertModel,
        Wav2Vec2Model,
        WavLMModel,
    )
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

# By model_type, since WavLM loaded as a HubertModel is wrong without an error.
MODELS: dict[str, Any] = {
    "hubert": HubertModel,
    "wavlm": WavLMModel,
    "wav2vec2": Wav2Vec2Model,
    "wav2vec2-bert": Wav2Vec2BertModel,
}
ATTENTION = "miipher2_sdpa"
PREPROCESSOR = "preprocessor_config.json"


def model_class(name: str, revision: str | None) -> Any:
    """Return the class of a model, from its `config.json`.

    Raises:
        OSError: there is no such file.
        ValueError: the model is not supported.
    """
    settings, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision)
    if not settings:
        raise FileNotFoundError(f"{name}: no config.json")
    model_type = settings.get("model_type")
    if model_type not in MODELS:
        raise ValueError(f"{name}: model_type {model_type!r}; should be one of {', '.join(MODELS)}")
    return MODELS[model_type]


def load_first_layers(name: str, layers: int, revision: str | None) -> Any:
    """Return a transformers model with its first `layers` layers, in float32.

    Raises:
        OSError: there is no such model.
        ValueError: it is not supported, has fewer layers, or its file lacks a weight.
    """
    kind = model_class(name, revision)
    config = kind.config_class.from_pretrained(name, revision=revision)
    check_layers(name, config.num_hidden_layers, layers)
    config.num_hidden_layers = layers
    # Modules after the layers, and the embedding of masked frames, would never run.
    config.use_intermediate_ffn_before_adapter = False
    config.add_adapter = False
    config.mask_time_prob = config.mask_feature_prob = 0.0
    with _quiet():
        model, info = kind.from_pretrained(
            name, config=config, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    check_weights(name, sorted(info["missing_keys"]))
    if model.config._attn_implementation == "sdpa":  # not WavLM's, which has an attention of its own
        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION, key_mask)
        model.config._attn_implementation = ATTENTION
    return model


def save_first_layers(name: str, layers: int, revision: str | None, folder: Path, dtype: torch.dtype) -> None:
    """Write a copy of a model with its first `layers` layers, and of its preprocessor's settings.

    Raises:
        OSError: there is no such model.
        ValueError: it is not supported, or has fewer layers.
    """
    kind = model_class(name, revision)
    config = kind.config_class.from_pretrained(name, revision=revision)
    check_layers(name, config.num_hidden_layers, layers)
    config.num_hidden_layers = layers
    with _quiet():
        model = kind.from_pretrained(name, config=config, revision=revision, dtype=dtype)
    save_model(model, folder)
    extractor = find_preprocessor(name, revision)
    if extractor is not None:
        shutil.copyfile(extractor, folder / PREPROCESSOR)


def save_model(model: Any, folder: Path) -> None:
    """Write a model, without a progress bar."""
    with _quiet():
        model.save_pretrained(folder)


def find_preprocessor(name: str, revision: str | None) -> Path | None:
    """Return the path of a model's `preprocessor_config.json`, where it has one.

    Raises:
        OSError: the hub cannot be reached.
    """
    path = utils.cached_file(name, PREPROCESSOR, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


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
