"""Encoders are loaded up to a layer, and unusable files are errors that say why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_encoders import LAYERS, folders, new_model

from miipher2.models.encoder.from_pretrained import EncoderUnavailableError, load_encoder

__all__ = ["folders"]


def test_digest_covers_the_loaded_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    digest = load_encoder(folders["hubert_base"], 2).digest
    again = load_encoder(folders["hubert_base"], 2)
    again.add_adapters(4)
    assert again.digest == digest
    assert load_encoder(folders["hubert_base"], 1).digest != digest
    for name, changes in (("encoder.layers.0.layer_norm.bias", True), ("encoder.layers.2.layer_norm.bias", False)):
        model = new_model("hubert_base")
        with torch.no_grad():
            model.get_parameter(name)[0] += 1
        model.save_pretrained(tmp_path)
        assert (load_encoder(tmp_path, 2).digest != digest) == changes


def test_frozen_statistics_are_part_of_the_digest(tmp_path: Path, folders: dict[str, Path]) -> None:
    model = new_model("mini")
    model.config.miipher2_front_end["mean"] = 11.0
    model.save_pretrained(tmp_path)
    assert load_encoder(tmp_path, 1).digest != load_encoder(folders["mini"], 1).digest


@pytest.mark.parametrize("layer", [LAYERS + 1, [1, LAYERS + 1]])
def test_a_layer_beyond_the_model_is_an_error(layer: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=rf"{folders['hubert_base']} has 3 layers; layer 4 should be"):
        load_encoder(folders["hubert_base"], layer)


@pytest.mark.parametrize("name", ["utter-project/mHuBERT-147", "models/no/such/folder"])
def test_an_unavailable_name_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderUnavailableError, match=f"^{name}: no encoder there"):
        load_encoder(name, 4)


def test_a_folder_without_weights_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailableError, match=str(tmp_path)):
        load_encoder(tmp_path, 1)
    (tmp_path / "config.json").write_text((folders["mini"] / "config.json").read_text())
    with pytest.raises(EncoderUnavailableError, match=str(tmp_path)):
        load_encoder(tmp_path, 1)


def test_an_unsupported_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type 'bert'; should be one of hubert, wavlm, wav2vec2, wav2vec2-bert"):
        load_encoder(tmp_path, 1)


def test_a_missing_weight_is_an_error_and_not_random(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders["mini"] / "config.json").read_text())
    weights = load_file(folders["mini"] / "model.safetensors")
    del weights["encoder.layers.0.ffn1_layer_norm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no encoder.layers.0.ffn1_layer_norm.bias \(1 missing\)"):
        load_encoder(tmp_path, 1)


@pytest.mark.parametrize("layer", [[], [0, 1], [2, 1], [1, 1], [1, True]])
def test_a_value_that_names_no_layers_is_an_error(layer: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"should be a number from 1, or several, ascending"):
        load_encoder(folders["mini"], layer)
