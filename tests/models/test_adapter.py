"""Adapters beside the feed-forward blocks of a small encoder."""

from pathlib import Path

import pytest
import torch

from miipher2.models.encoder.adapter import AdaptedBlock
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.encoder.mini import build_mini_encoder


@pytest.fixture
def encoder(tmp_path: Path) -> SpeechEncoder:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "layers": 2, "heads": 2, "intermediate_dim": 24, "kernel": 3, "mels": 10}
    build_mini_encoder(**sizes, mean=10.0, std=4.0, mirror=True).save_pretrained(tmp_path)
    return load_encoder(tmp_path, 2)


def new_waves() -> torch.Tensor:
    return torch.randn(2, 6400, generator=torch.Generator().manual_seed(1)) * 0.1


def test_new_adapters_change_nothing(encoder: SpeechEncoder) -> None:
    before = encoder(new_waves())
    encoder.add_adapters(5)
    # With gradients another attention kernel runs, and the last bits differ.
    torch.testing.assert_close(encoder(new_waves(), adapted=True), before, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert torch.equal(encoder(new_waves(), adapted=True), before)
    assert torch.equal(encoder(new_waves(), adapted=False), before)


def test_every_feed_forward_block_of_a_conformer_has_an_adapter(encoder: SpeechEncoder) -> None:
    encoder.add_adapters(5)
    assert len(encoder.adapters) == 4
    assert all(
        isinstance(getattr(layer, name), AdaptedBlock) for layer in encoder.encoder.layers for name in ("ffn1", "ffn2")
    )


def test_only_adapters_are_trained(encoder: SpeechEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.add_adapters(5)
    learning = {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    assert learning == {id(parameter) for parameter in encoder.adapters.parameters()}
    frozen = encoder(new_waves(), adapted=False)
    target = torch.zeros_like(frozen)
    optimizer = torch.optim.SGD(encoder.adapters.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (encoder(new_waves(), adapted=True) - target).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.adapters.parameters())
    assert not torch.allclose(encoder(new_waves(), adapted=True), frozen)
    assert torch.equal(encoder(new_waves(), adapted=False), frozen)
    assert not any(module.training for module in encoder.modules())


def test_adapter_state_is_saved_and_loaded_completely(encoder: SpeechEncoder) -> None:
    with pytest.raises(ValueError, match="no adapters"):
        encoder(new_waves(), adapted=True)
    encoder.add_adapters(5)
    for parameter in encoder.adapters.parameters():
        torch.nn.init.normal_(parameter)
    trained, state = encoder(new_waves(), adapted=True), encoder.adapter_state_dict()
    assert set(state) == {name for name, _ in encoder.adapters.named_parameters()}
    state = {name: tensor.clone() for name, tensor in state.items()}
    for parameter in encoder.adapters.parameters():
        torch.nn.init.zeros_(parameter)
    encoder.load_adapter_state_dict(state)
    torch.testing.assert_close(encoder(new_waves(), adapted=True), trained)
    for broken in ({**state, "9.up.bias": torch.zeros(1)}, {name: state[name] for name in sorted(state)[1:]}):
        with pytest.raises(RuntimeError, match=r"Missing|Unexpected"):
            encoder.load_adapter_state_dict(broken)
    with pytest.raises(ValueError, match="4 adapters already"):
        encoder.add_adapters(5)
