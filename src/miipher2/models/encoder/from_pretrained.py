"""Loads an encoder's first layers from a local folder or the Hugging Face hub."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from miipher2.config.schema import as_layers
from miipher2.models.encoder.conformer import load_conformer
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.logmel_frontend import log_mel_front_end


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
    if (conformer := load_conformer(Path(name), layers[-1])) is not None:
        config, projection, encoder = conformer
        return SpeechEncoder(log_mel_front_end(config), projection, encoder, layers)
    # Seconds, which the encoder that ships need not pay.
    from miipher2.models.encoder.transformers_models import find_preprocessor, load_first_layers

    try:
        model = load_first_layers(name, layers[-1], revision)
        preprocessor = find_preprocessor(name, revision)
    except OSError as error:
        raise EncoderUnavailableError(
            f"{name}: no encoder there; should be a local folder with config.json and model.safetensors, or a name on "
            f"the Hugging Face hub (which needs network, or `hf download {name}` beforehand)"
        ) from error
    config = model.config
    if config.model_type == "wav2vec2-bert":
        return SpeechEncoder(log_mel_front_end(config), model.feature_projection, model.encoder, layers)
    normalise = preprocessor is not None and json.loads(preprocessor.read_text()).get("do_normalize", True)
    front_end = WaveFrontEnd(
        model.feature_extractor.conv_layers, config.conv_kernel, config.conv_stride, bool(normalise)
    )
    if config.do_stable_layer_norm:
        # It follows the last layer of the full model and is no part of hidden_states.
        model.encoder.layer_norm = nn.Identity()
    return SpeechEncoder(front_end, model.feature_projection, model.encoder, layers)
