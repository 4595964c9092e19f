"""The layers of w2v-BERT 2.0 against transformers' own, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoders import LAYERS, folders, new_waves

from miipher2.models.encoder import from_pretrained
from miipher2.models.encoder.conformer import Conformer
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.from_pretrained import load_encoder

__all__ = ["folders"]


@pytest.fixture(params=["mini", "w2v_bert", "w2v_bert_2"])
def both(
    request: pytest.FixtureRequest, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[SpeechEncoder, SpeechEncoder]:
    """Return our layers and transformers' with the same weights and adapters."""
    folder = folders[request.param]
    ours = load_encoder(folder, [1, LAYERS])
    with monkeypatch.context() as patch:
        patch.setattr(from_pretrained, "load_conformer", lambda *_: None)
        theirs = load_encoder(folder, [1, LAYERS])
    for encoder in (ours, theirs):
        encoder.add_adapters(8)
        for parameter in encoder.adapters.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    return ours, theirs


def test_features_gradients_and_digest_are_those_of_transformers(both: tuple[SpeechEncoder, SpeechEncoder]) -> None:
    ours, theirs = both
    assert isinstance(ours.encoder, Conformer)
    assert not isinstance(theirs.encoder, Conformer)
    assert ours.digest == theirs.digest
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for counts in (None, torch.tensor([50, 31])):
        for precision in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                results = [encoder(new_waves(), counts, adapted=True) for encoder in both]
            assert torch.equal(*results)
            gradients = [
                torch.autograd.grad(result.float().square().mean(), list(encoder.adapters.parameters()))
                for encoder, result in zip(both, results, strict=True)
            ]
            assert all(map(torch.equal, *gradients))
    for encoder in both:
        encoder.cast_frozen_weights(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(*(encoder(new_waves(), torch.tensor([50, 31]), adapted=True) for encoder in both))


def change(settings: dict[str, Any], folder: Path, target: Path) -> Path:
    """Write a copy of an encoder's folder with other settings."""
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


def test_what_it_does_not_know_is_left_to_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = load_encoder(change({"hidden_act": "gelu"}, folders["mini"], tmp_path), 1)
    assert not isinstance(encoder.encoder, Conformer)


def test_files_that_do_not_fit_are_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    change({"intermediate_size": 48}, folders["mini"], tmp_path)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/model.safetensors: does not fit config.json: .*size mismatch"):
        load_encoder(tmp_path, 1)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/model.safetensors: does not fit config.json: "):
        load_encoder(tmp_path, 1)
    with pytest.raises(ValueError, match=rf"^{folders['mini']} has 3 layers; layer 4 should be from 1 to that$"):
        load_encoder(folders["mini"], 4)
