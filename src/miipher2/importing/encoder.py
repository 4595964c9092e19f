"""The encoder folder: a HuBERT with a file's own weights, cut at the layer that is used."""

import json
from pathlib import Path
from typing import Any

import torch

from miipher2.importing.source import SourceTensors
from miipher2.models.encoder.conformer import check_layers
from miipher2.models.encoder.from_pretrained import EncoderUnavailableError
from miipher2.models.encoder.transformers_models import MODELS, PREPROCESSOR, model_class, save_model

# The original code loads all of them as HubertModel, WavLM without its position bias.
HUBERT_SHAPED = ("hubert", "wav2vec2", "wavlm")
POSITIONS = "encoder.pos_conv_embed.conv"


def read_config(name: str) -> dict[str, Any]:
    """Return the `config.json` of an encoder.

    Args:
        name: a folder, or a name on the Hugging Face hub.

    Raises:
        EncoderUnavailableError: there is no such encoder.
        ValueError: it is not supported.
    """
    try:
        return model_class(name, None).config_class.get_config_dict(name)[0]
    except OSError as error:
        raise EncoderUnavailableError(
            f"--encoder {name}: no config.json there; should be a local folder, or a name on the Hugging Face hub "
            f"(which needs network, or `hf download {name}` beforehand)"
        ) from error


def take_hubert(tensors: SourceTensors, prefix: str, name: str, layers: int) -> Any:
    """Return a HubertModel of `layers` layers with the weights of a file.

    Args:
        prefix: of the model's names in the file.
        name: of the encoder whose `config.json` says what the weights cannot, such as the number of heads.

    Raises:
        EncoderUnavailableError: there is no such encoder.
        SourceError: a weight is missing or of another shape.
        ValueError: the encoder is not shaped like HuBERT, or has fewer layers.
    """
    settings = read_config(name)
    if settings.get("model_type") not in HUBERT_SHAPED:
        raise ValueError(
            f"--encoder {name}: model_type {settings.get('model_type')!r}; should be one of {', '.join(HUBERT_SHAPED)}"
        )
    check_layer(name, settings, layers)
    model_type = MODELS["hubert"]
    kept = {key: value for key, value in settings.items() if key not in ("model_type", "architectures")}
    no_masks = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        model = model_type(model_type.config_class(**kept | no_masks | {"num_hidden_layers": layers}))
    state = {}
    for wanted, tensor in model.state_dict().items():
        found = prefix + wanted
        if wanted.startswith(f"{POSITIONS}.parametrizations"):  # the name before PyTorch 2.0
            older = f"{prefix}{POSITIONS}.weight_{'g' if wanted.endswith('0') else 'v'}"
            found = older if tensors.has(older) else found
        state[wanted] = tensors.take(found, tensor.shape)
    model.load_state_dict(state)
    above = [f"{prefix}encoder.layers.{number}." for number in range(layers, settings.get("num_hidden_layers", 12))]
    tensors.leave_out("layers above the adapters", above)
    tensors.leave_out("the embedding of masked frames", [f"{prefix}masked_spec_embed"])
    return model


def check_layer(name: str, settings: dict[str, Any], layer: int) -> None:
    """Check that an encoder has a layer whose features mean the same in every version of transformers.

    Raises:
        ValueError: it has not.
    """
    available = settings.get("num_hidden_layers", 12)
    check_layers(name, available, layer)
    if settings.get("do_stable_layer_norm") and layer == available:
        raise ValueError(
            f"{name}: layer {layer} is its last, whose features some versions of transformers take before the last "
            "LayerNorm and others after it; should be a lower layer"
        )


def save_hubert(model: Any, folder: Path) -> None:
    """Write a model whose wave is not normalised."""
    save_model(model, folder)
    extractor = {
        "do_normalize": False,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 16_000,
    }
    (folder / PREPROCESSOR).write_text(json.dumps(extractor, indent=2) + "\n")
