"""The real stages on CUDA: resumed from their middle, they end with the bits of a run that was never stopped."""

from typing import Any

import pytest
import torch
from test_kill import CASES, COMMON

from miipher2.training.checkpoint import load


@pytest.mark.gpu
def test_every_stage_resumed_on_cuda_publishes_the_same_bits(stages: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for stage, case in CASES.items():
        words = [word.replace("exp/whole_", "exp/cuda_whole_") for word in (*case, *COMMON, "runtime.device=cuda")]
        whole, resumed = f"cuda_whole_{stage}", f"cuda_resumed_{stage}"
        middle = f"checkpoint.resume_from=exp/{resumed}/checkpoint_4.pt"
        for name, more in ((whole, ()), (resumed, ("steps=8",)), (resumed, (middle,))):
            done = stages.run_cold(stage, *words, f"name={name}", *more)
            assert done.code == 0, done.output
        folders = [stages.root / "exp" / name for name in (whole, resumed)]
        assert len({(folder / "published/final.safetensors").read_bytes() for folder in folders}) == 1
        contents = [load(folder / "checkpoint_12.pt")[0] for folder in folders]
        assert [content.environment["cuda"] != "none" for content in contents] == [True, True]
        assert len({(folder / "history.csv").read_bytes() for folder in folders}) == 1
