"""Several processes that train one run together: killed, stopped, and resumed, also with another number of them."""

import os
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_kill import CASES, COMMON, LAST, _rows, assert_same, newest, whole

from miipher2.training.checkpoint import load
from miipher2.training.summary import list_checkpoints

__all__ = ["whole"]
LIMIT_SECONDS = 300.0


class Together:
    """Starts a stage as several ranks, as `torchrun` would, in processes forked from a warm one."""

    def __init__(self, stages: Any) -> None:
        self.stages = stages

    def start(self, count: int, stage: str, *overrides: str, last: tuple[str, ...] = ()) -> list[int]:
        """Start them and return their process ids by rank; `last` are overrides of the last rank alone."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        return [
            self.stages.start(
                stage, *overrides, *(last if rank == count - 1 else ()), **common, RANK=str(rank), LOCAL_RANK=str(rank)
            )
            for rank in range(count)
        ]

    def run(self, count: int, stage: str, *overrides: str) -> list[Any]:
        """Run them to their end."""
        done = [self.stages.wait(pid) for pid in self.start(count, stage, *overrides)]
        assert [each.code for each in done] == [0] * count, "\n".join(each.output for each in done)
        return done


@pytest.fixture
def together(stages: Any) -> Together:
    return Together(stages)


@pytest.fixture(scope="module")
def pair(stages: Any) -> Path:
    """Return the folder of an adapter run of two ranks that was never stopped."""
    folder: Path = stages.root / "exp/adapter_pair"
    Together(stages).run(2, "train_adapter", *CASES["train_adapter"], *COMMON, f"name={folder.name}")
    return folder


def begin(folder: Path) -> tuple[str, ...]:
    return (*CASES["train_adapter"], *COMMON, f"name={folder.name}")


def closeness(folder: Path, other: Path, file: str = LAST) -> float:
    """Return the largest difference of two checkpoints' trained tensors."""
    ours, theirs = load(folder / file)[0].model, load(other / file)[0].model
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.slow
def test_two_ranks_make_the_update_of_one(together: Together, pair: Path, whole: Any) -> None:
    """The same examples: equal to rounding after one update, and nearly so after all of them."""
    first = pair.with_name("adapter_pair_first")
    single = pair.with_name("adapter_single_first")
    together.run(2, "train_adapter", *begin(first), "steps=1")
    together.run(1, "train_adapter", *begin(single), "steps=1")
    assert closeness(first, single, "checkpoint_1.pt") <= 1e-6
    assert closeness(pair, whole("train_adapter")) <= 1e-3
    ours, theirs = (path / "history.csv" for path in (pair, whole("train_adapter")))
    for line, other in zip(ours.read_text().splitlines()[1:], theirs.read_text().splitlines()[1:], strict=True):
        for one, two in zip(line.split(","), other.split(","), strict=True):
            assert (not one and not two) or float(one) == pytest.approx(float(two), rel=2e-3)


def test_the_checkpoint_holds_the_generators_of_every_rank_and_they_differ(pair: Path) -> None:
    content = load(pair / LAST)[0]
    assert sorted(content.rng) == ["0", "1"]
    assert not torch.equal(content.rng["0"]["torch"], content.rng["1"]["torch"])
    assert content.environment["world_size"] == "2"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_rank_killed_ends_all_and_the_run_resumes_to_the_same_bits(
    together: Together, pair: Path, killed: int
) -> None:
    folder = pair.with_name(f"adapter_pair_killed_{killed}")
    pids = together.start(2, "train_adapter", *begin(folder), "loader.num_workers=1")
    done = together.stages.kill_when(pids[killed], lambda: _rows(folder) >= 6, limit_seconds=LIMIT_SECONDS)
    assert done.code == -9
    assert together.stages.wait(pids[1 - killed]).code not in (0, -9)
    done = together.run(2, "train_adapter", *begin(folder), *newest(folder))
    assert "Configuration changes" not in done[0].output
    assert done[1].output == ""
    assert_same(folder, pair)


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_once_and_ends_all(together: Together, pair: Path) -> None:
    folder = pair.with_name("adapter_pair_stopped")
    pids = together.start(2, "train_adapter", *begin(folder))
    done = together.stages.kill_when(pids[1], lambda: _rows(folder) >= 5, signal.SIGTERM, LIMIT_SECONDS)
    other = together.stages.wait(pids[0])
    assert (done.code, other.code) == (143, 143), done.output + other.output
    command = other.output.split("Resume with:\n  ")[1].splitlines()[0]
    assert command.startswith("uv run torchrun --standalone --nproc-per-node=2 stages/train_adapter.py ")
    assert "Stopped by SIGTERM" not in done.output
    together.run(2, "train_adapter", *shlex.split(command)[6:])
    assert_same(folder, pair)


@pytest.mark.slow
def test_another_number_of_ranks_resumes_with_the_same_examples_and_a_warning(together: Together, pair: Path) -> None:
    """Two, one, two: a warning each time, and weights within a thousandth of two ranks throughout."""
    folder = pair.with_name("adapter_pair_two_one_two")
    together.run(2, "train_adapter", *begin(folder), "steps=4")
    alone = together.run(1, "train_adapter", *begin(folder), "steps=8", *newest(folder))
    assert "  - environment.world_size: 2 -> 1\n" in alone[0].output
    again = together.run(2, "train_adapter", *begin(folder), *newest(folder))
    assert "  - environment.world_size: 1 -> 2\n" in again[0].output
    assert closeness(folder, pair) <= 1e-3
    assert [parent["step"] for parent in load(folder / LAST)[0].parents] == [4, 8]


@pytest.mark.slow
def test_a_failure_on_one_rank_ends_all_with_its_message(together: Together, pair: Path) -> None:
    folder = pair.with_name("adapter_pair_broken")
    pids = together.start(2, "train_adapter", *begin(folder), last=("data.prepared=data/nowhere",))
    whole, broken = (together.stages.wait(pid) for pid in pids)
    assert broken.code == 1
    assert "data.prepared=data/nowhere" in broken.output
    assert whole.code not in (0, -9)
    assert not folder.exists()


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_an_error_before_anything_is_touched(together: Together, pair: Path) -> None:
    folder = pair.with_name("adapter_pair_uneven")
    done = [
        together.stages.wait(pid)
        for pid in together.start(2, "train_adapter", *begin(folder), "batch_size=3", "checkpoint.save_interval=4")
    ]
    assert [each.code for each in done] == [1, 1]
    assert "batch_size=3: should be a multiple of the 2 processes" in done[0].output
    assert not folder.exists()


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one_for_both_networks(together: Together, stages: Any) -> None:
    """Compared in AdamW's first moments, since its first step depends on their signs alone.

    Smaller batches add in another order: measured differences are 1e-6 for the discriminators and, since the logarithm
    of quiet bands magnifies them, 5e-4 for the generator; one rank's examples alone are at least 2e-4 and 9e-2 off.
    """
    stage, moments = "pre_train_vocoder", {}
    for name, count, size in (("one", 1, 2), ("two", 2, 2), ("half", 1, 1)):
        words = (*CASES[stage], *COMMON, "steps=1", "loss.adversarial_from_step=0", f"batch_size={size}")
        together.run(count, stage, *words, f"name=vocoder_first_of_{name}")
        path = stages.root / "exp" / f"vocoder_first_of_{name}" / "checkpoint_1.pt"
        moments[name] = load(path)[0].optimizers
    for network, bound in (("discriminators", 1e-5), ("generator", 5e-3)):
        off = {
            other: {
                name: float((one["exp_avg"] - moments[other][network][name]["exp_avg"]).norm() / one["exp_avg"].norm())
                for name, one in moments["one"][network].items()
            }
            for other in ("two", "half")
        }
        assert max(off["two"].values()) <= bound, network
        assert min(off["half"].values()) > bound, network


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pre_train_vocoder"])
def test_the_vocoder_of_two_ranks_resumes_to_the_same_bits(together: Together, stages: Any, stage: str) -> None:
    folders = [stages.root / "exp" / name for name in ("pair_vocoder", "pair_vocoder_killed")]
    words = (*CASES[stage], *COMMON, "validation_batches=3")
    together.run(2, stage, *words, f"name={folders[0].name}")
    pids = together.start(2, stage, *words, f"name={folders[1].name}")
    together.stages.kill_when(pids[0], lambda: _rows(folders[1]) >= 9, limit_seconds=LIMIT_SECONDS)
    together.stages.wait(pids[1])
    assert [step for step, _ in list_checkpoints(folders[1])] == [4, 8]
    together.run(2, stage, *words, f"name={folders[1].name}", *newest(folders[1]))
    assert_same(folders[1], folders[0])


@pytest.mark.slow
def test_torchrun_starts_the_ranks_and_a_sigterm_to_it_saves(stages: Any, pair: Path, tmp_path: Path) -> None:
    folder = pair.with_name("adapter_pair_torchrun")
    script = [str(stages.root / "stages/train_adapter.py"), *begin(folder)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    log = tmp_path / "log"
    pid = os.posix_spawn(
        sys.executable,
        [*launcher, *script],
        {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    while _rows(folder) < 5:
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, log.read_text()
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    assert "Resume with" in log.read_text(), log.read_text()
    Together(stages).run(2, "train_adapter", *begin(folder), *newest(folder))
    assert_same(folder, pair)
