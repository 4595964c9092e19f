"""What the order of a sum over GPUs depends on is set and recorded; without NCCL itself, which needs several GPUs."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.recipes.components import fit_normaliser
from miipher2.training import distributed, environment
from miipher2.training.environment import describe_environment

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def of_several(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretend to be one of several processes with a GPU; return the arguments of init_process_group."""
    for name in environment.NCCL_VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name in ("LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    started: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", started.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 9))
    return started


def test_nccl_adds_in_a_ring_by_one_protocol_and_this_is_recorded(of_several: list[Any]) -> None:
    distributed.init(CUDA)
    assert of_several == ["cpu:gloo,cuda:nccl"]
    assert describe_environment(CUDA, 2)["nccl"] == "2.28.9, NCCL_ALGO=Ring, NCCL_PROTO=Simple"


def test_what_the_user_has_set_for_nccl_stays_and_is_recorded(
    of_several: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    monkeypatch.setenv("NCCL_MAX_NCHANNELS", "8")
    distributed.init(CUDA)
    expected = "2.28.9, NCCL_ALGO=Tree, NCCL_PROTO=Simple, NCCL_MAX_NCHANNELS=8"
    assert describe_environment(CUDA, 2)["nccl"] == expected


@pytest.mark.usefixtures("of_several")
def test_where_ranks_do_not_talk_by_nccl_nothing_is_set_or_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.init(CPU)
    assert not [name for name in environment.NCCL_VARIABLES if name in os.environ]
    assert "nccl" not in describe_environment(CPU, 2)
    assert "nccl" not in describe_environment(CUDA, 1)


def test_rank_0_fits_the_feature_statistics_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every rank would read the whole batches, and ranks on other devices would standardise otherwise."""

    def forbidden() -> Iterator[Any]:
        raise AssertionError("another rank has read the batches")
        yield

    def from_rank_0(tensor: torch.Tensor, source: int) -> None:
        assert source == 0
        tensor.fill_(7)

    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "broadcast", from_rank_0)
    normaliser = FeatureNormaliser(4)
    fit_normaliser(normaliser, SpeechEncoder.__new__(SpeechEncoder), forbidden(), CPU, bf16=False)
    assert all(bool((tensor == 7).all()) for tensor in normaliser.buffers())
