"""The real stages on CUDA: resumed from their middle, they end with the bits of a run that was never stopped."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch
from test_kill import CASES, COMMON

from miipher2.training.checkpoint import load
from miipher2.training.summary import list_checkpoints


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_run_on_one_of_several_gpus_stops_at_sigterm_and_resumes_where_there_is_one(stages: Any) -> None:
    """With loader workers, whose batches are pinned."""
    last = torch.cuda.device_count() - 1
    words = [*CASES["train_adapter"], *COMMON, "name=cuda_stopped", "loader.num_workers=2", "steps=500"]
    folder = stages.root / "exp/cuda_stopped"
    history = folder / "history.csv"
    stopped = stages.kill_when(
        stages.start("train_adapter", *words, f"runtime.device=cuda:{last}"),
        lambda: history.exists() and len(history.read_text().splitlines()) > 3,
        signal.SIGTERM,
    )
    assert "Resume with" in stopped.output, stopped.output
    newest = list_checkpoints(folder)[-1][1]
    assert len(load(newest)[0].rng["0"]["cuda"]) == 1
    resumed = stages.run_cold(
        "train_adapter", *words, f"steps={load(newest)[0].step + 2}", "runtime.device=cuda",
        f"checkpoint.resume_from={newest}", CUDA_VISIBLE_DEVICES="0",
    )  # fmt: skip
    assert resumed.code == 0, resumed.output
    assert "Configuration changes" not in resumed.output, resumed.output


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_ranks_train_on_a_gpu_each(stages: Any) -> None:
    words = [*CASES["train_adapter"], *COMMON, "name=cuda_ranks", "steps=4", "runtime.device=cuda"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(stages.root / "stages/train_adapter.py"), *words],
        cwd=stages.root, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    saved = load(stages.root / "exp/cuda_ranks/checkpoint_4.pt")[0]
    assert [len(saved.rng[rank]["cuda"]) for rank in "01"] == [1, 1]
    assert saved.environment["world_size"] == "2"
    assert "NCCL_ALGO=Ring" in saved.environment["nccl"]
