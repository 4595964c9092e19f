"""Four DVC scenarios with the real stages: everything that pretend stages cannot prove."""

import shlex
import signal
from pathlib import Path

import pytest
from dvc_clone import Clone, read_json
from test_scenarios import ADAPTER, STAGES, TUNED, WEIGHTS, is_run, is_skipped

pytestmark = pytest.mark.slow


def test_a_second_repro_has_nothing_to_do_and_shows_results(real_clone: Clone) -> None:
    assert "Data and pipelines are up to date." in real_clone.dvc("repro")
    for name in ("adapter_embedded", "harmonic_pretrain_embedded", "harmonic_ft_embedded"):
        folder = real_clone.root / "exp" / name
        assert list(folder.glob("checkpoint_*.pt"))
        assert (folder / WEIGHTS).is_file()
    assert "log_mel.improvement" in real_clone.dvc("metrics", "show")
    assert "index.html" in real_clone.dvc("plots", "show")
    assert "finetune_vocoder" in real_clone.dvc("dag")
    assert real_clone.dvc("params", "diff").strip() == ""
    assert (real_clone.root / "exp/report/index.html").stat().st_size > 10_000


def test_a_killed_experiment_resumes_to_the_same_bits(real_clone: Clone, tmp_path: Path) -> None:
    """The same experiment, uninterrupted in a second clone."""
    settings = ("train_adapter.seed=5", "train_adapter.steps=40")
    other = Clone(tmp_path / "uninterrupted")
    real_clone.run("git", "clone", "-q", ".", str(other.root))
    real_clone.run("cp", "-r", ".dvc/cache", str(other.root / ".dvc"))
    other.dvc("checkout")
    assert is_run("train_adapter", other.experiment(*settings))
    run_id = read_json(real_clone.root / f"{ADAPTER}/checkpoint_6.json")["run_id"]

    def is_saved() -> bool:
        path = real_clone.root / f"{ADAPTER}/checkpoint_6.json"
        return path.is_file() and read_json(path)["run_id"] != run_id and path.with_suffix(".pt").is_file()

    real_clone.interrupted(*settings, when=is_saved, kill="script")
    real_clone.run("git", "checkout", "-q", "main", check=False)
    resumed = real_clone.experiment(*settings, f"checkpoint.resume_from={ADAPTER}/checkpoint_6.pt")
    assert "[INFO] Restored model, optimizer, and scheduler states" in resumed
    assert is_skipped("pre_train_vocoder", resumed)
    for file in (f"{ADAPTER}/{WEIGHTS}", f"{ADAPTER}/published/history.csv", f"{TUNED}/{WEIGHTS}"):
        assert real_clone.digest(file) == other.digest(file), file


def test_the_command_after_a_sigterm_resumes_the_run(real_clone: Clone) -> None:
    settings = ("train_adapter.seed=6", "train_adapter.steps=200")

    def has_saved() -> bool:
        return "Saved" in (real_clone.root / ".git/interrupted.log").read_text()

    output = real_clone.interrupted(*settings, when=has_saved, kill="script", number=signal.SIGTERM)
    command = output.split("Resume with:\n")[1].splitlines()[0].strip()
    resumed = real_clone.dvc(*shlex.split(command)[3:])
    assert "Configuration changes" not in resumed
    assert len(read_json(real_clone.root / f"{ADAPTER}/checkpoint_200.json")["parents"]) == 1
    fresh = real_clone.experiment(*settings)
    assert all(is_skipped(stage, fresh) for stage in STAGES)


def test_two_processes_train_through_one_parameter(real_clone: Clone) -> None:
    launch = "train_adapter.runtime.launch='torchrun --standalone --nproc-per-node=2'"
    output = real_clone.experiment(launch, "train_adapter.seed=8")
    assert "torchrun --standalone --nproc-per-node=2 stages/train_adapter.py" in output
    assert read_json(real_clone.root / f"{ADAPTER}/checkpoint_8.json")["environment"]["world_size"] == "2"
    assert is_skipped("train_adapter", real_clone.experiment(launch, "train_adapter.seed=8"))


def test_weights_that_do_not_fit_leave_the_runs_folder_untouched(real_clone: Clone) -> None:
    def content() -> dict[str, tuple[bytes, float]]:
        return {
            str(path): (real_clone.digest(str(path)), path.stat().st_mtime)
            for path in (real_clone.root / "exp").rglob("*")
            if path.is_file()
        }

    before = content()
    assert any(f"{ADAPTER}/checkpoint_" in path for path in before)
    stage = ("python", "stages/train_adapter.py", "--config-name=adapter_embedded")
    for wrong, reason in (
        ("model.adapter_hidden_dim=8", "was trained with model.adapter_hidden_dim=256; this stage has 8"),
        ("model.hubert_layer=2", "this stage has 2"),
        (f"init_from.adapter={TUNED}/published", "is it of the right stage?"),
        ("init_from.adapter=nowhere", "nowhere"),
    ):
        output = real_clone.run(*stage, wrong, check=False)
        assert reason in output, output
        assert "Starting fresh training" not in output
    assert content() == before
