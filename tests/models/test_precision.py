"""The precision that a device computes in: chosen with at most one line, and recorded as it ran."""

import logging
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_weights import load, publish_all, wave

from miipher2.config.params import compose_config
from miipher2.models import precision
from miipher2.models.precision import choose_precision, has_bfloat16, set_tf32
from miipher2.training import stage

CPU = torch.device("cpu")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the warnings that follow."""
    found: list[str] = []
    monkeypatch.setattr(precision.log, "warning", lambda text, *values: found.append(text % values))
    return found


@pytest.fixture(params=[True, False], ids=["with", "without"])
def is_capable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: request.param)
    return request.param


@pytest.mark.parametrize("requested", ["auto", "fp32", "tf32", "bf16"])
def test_bfloat16_is_for_devices_that_compute_in_it(requested: str, is_capable: bool, lines: list[str]) -> None:
    wants_bfloat16 = requested in ("auto", "bf16")
    chosen = choose_precision(requested, CPU)
    assert chosen == ({True: "bf16", False: "fp32"}[is_capable] if wants_bfloat16 else requested)
    expected = f"precision={requested}: cpu has no bfloat16 instructions; fp32 is used, which is faster there"
    assert lines == ([] if is_capable or not wants_bfloat16 else [expected])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of an x86 CPU")
def test_a_cpu_is_asked_for_its_instructions() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bfloat16(CPU) == ("avx512_bf16" in flags or "amx_bf16" in flags)


@pytest.mark.parametrize("requested", ["fp32", "tf32", "bf16"])
def test_tf32_is_allowed_on_purpose_only(requested: str) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        set_tf32(requested)
        assert torch.backends.cudnn.allow_tf32 == (requested == "tf32")
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("requested", ["auto", "bf16"])
def test_a_stage_records_the_precision_that_runs(
    requested: str, is_capable: bool, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Built(Exception):
        pass

    def build(_stage: str, config: Any, _device: torch.device) -> None:
        built.append(config.precision)
        raise Built

    built: list[str] = []
    monkeypatch.setattr(stage, "make_recipe", build)
    monkeypatch.setattr("miipher2.training.stage.PreparedData.read", lambda *_: None)
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)
    composed = compose_config("adapter_mini", [f"precision={requested}"], group="train_adapter")
    with pytest.raises(Built):
        stage.run_stage(OmegaConf.create(composed), "train_adapter")
    assert built == ["bf16" if is_capable else "fp32"]
    assert len(lines) == (not is_capable)


def test_a_restorer_records_the_precision_that_runs(tmp_path: Path, is_capable: bool, lines: list[str]) -> None:
    """On a CPU `auto` is fp32, whatever its kind, so that all CPUs restore alike."""
    publish_all(tmp_path, "hubert")
    exact, default, rounded = load(tmp_path, precision="fp32"), load(tmp_path), load(tmp_path, precision="bf16")
    chosen = "bf16" if is_capable else "fp32"
    assert [each.options.precision for each in (exact, default, rounded)] == ["fp32", "fp32", chosen]
    assert rounded.options.result_options()["precision"] == chosen
    assert len(lines) == (not is_capable)
    outputs = [each(wave(4_000), 16_000) for each in (exact, default, rounded)]
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2]) != is_capable
