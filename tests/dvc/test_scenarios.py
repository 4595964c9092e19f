"""What a user does with DVC, and what goes wrong: real dvc, real training, tiny configurations."""

import shlex
import signal
import sys
from pathlib import Path

import pytest
import yaml
from conftest_dvc import Clone, commit, edit, read_json

pytestmark = pytest.mark.slow
ADAPTER, VOCODER, TUNED = "exp/adapter_mini", "exp/hifigan_pretrain_mini", "exp/hifigan_ft_mini"


def skipped(stage: str, output: str) -> bool:
    return f"Stage '{stage}' didn't change, skipping" in output


def test_a_second_repro_has_nothing_to_do_and_reports_work(clone: Clone) -> None:
    assert "Data and pipelines are up to date." in clone.dvc("repro")
    for name in ("adapter_mini", "hifigan_pretrain_mini", "hifigan_ft_mini"):
        folder = clone.root / "exp" / name
        assert list(folder.glob("checkpoint_*.pt"))
        assert (folder / "published" / "final.safetensors").is_file()
    assert "log_mel.improvement" in clone.dvc("metrics", "show")
    assert "index.html" in clone.dvc("plots", "show")
    assert "finetune_vocoder" in clone.dvc("dag")
    assert clone.dvc("params", "diff").strip() == ""
    assert (clone.root / "exp/report/index.html").stat().st_size > 10_000


def test_settings_that_cannot_alter_a_result_rerun_nothing(clone: Clone) -> None:
    output = clone.experiment(
        "train_adapter.log_interval=2",
        "train_adapter.loader.num_workers=1",
        "train_adapter.checkpoint.keep_last_n=3",
        "pre_train_vocoder.wandb.mode=offline",
        "finetune_vocoder.runtime.device=auto",
    )
    assert all(
        skipped(stage, output) for stage in ("train_adapter", "pre_train_vocoder", "finetune_vocoder", "evaluate")
    )


def test_an_edit_of_the_vocoder_leaves_the_adapter_alone(clone: Clone) -> None:
    path = clone.root / "src/miipher2/models/hifigan.py"
    path.write_text(path.read_text() + "\n# an edit\n")
    output = clone.dvc("repro", "--dry")
    assert skipped("train_adapter", output)
    assert "Running stage 'pre_train_vocoder'" in output


def test_params_diff_shows_the_change_and_nothing_else(clone: Clone) -> None:
    clone.run(sys.executable, "-m", "miipher2.config.params", "train_adapter.optim.lr=0.5")
    lines = [line.split() for line in clone.dvc("params", "diff").splitlines()[1:] if line.strip()]
    assert [line[:2] for line in lines] == [["params.yaml", "train_adapter.optim.lr"]]
    assert lines[0][-1] == "0.5"


@pytest.mark.parametrize("kill", ["script", "dvc"])
def test_a_killed_run_resumes_to_the_same_bits_and_what_follows_is_skipped(
    clone: Clone, tmp_path: Path, kill: str
) -> None:
    """Uninterrupted in a clone beside it; here killed, resumed, and equal."""
    seed = "train_adapter.seed=5"
    other = Clone(tmp_path / "uninterrupted")
    clone.run("git", "clone", "-q", ".", str(other.root))
    clone.run("cp", "-r", ".dvc/cache", str(other.root / ".dvc"))
    other.dvc("checkout")
    whole = other.experiment(seed, "train_adapter.steps=40")
    assert "Running stage 'train_adapter'" in whole

    before = clone.live()
    parent = f"{ADAPTER}/checkpoint_6.pt"
    started = {"run": read_json(clone.root / f"{ADAPTER}/checkpoint_6.json")["run_id"]}

    def saved() -> bool:
        path = clone.root / f"{ADAPTER}/checkpoint_6.json"
        return path.is_file() and read_json(path)["run_id"] != started["run"] and path.with_suffix(".pt").is_file()

    clone.interrupted(seed, "train_adapter.steps=40", when=saved, kill=kill)
    for orphan in clone.orphans():  # killing dvc leaves its script running: it is ended as a user would
        orphan.kill()
        orphan.wait(30)
    clone.run("git", "switch", "-q", "main", check=False)
    clone.run("git", "checkout", "-q", "main", check=False)
    set_aside = {path.name: path.read_bytes() for path in (clone.root / "exp/.replaced").rglob("checkpoint_*")}
    assert all(set_aside[Path(name).name] == data for name, data in before.items() if name.startswith(ADAPTER))
    kept = clone.live()

    resumed = clone.experiment(seed, "train_adapter.steps=40", f"checkpoint.resume_from={parent}")
    assert f"[INFO] Resuming from explicitly specified checkpoint: {parent}" in resumed
    assert "[INFO] Resuming from step 6" in resumed
    assert "[INFO] Restored model, optimizer, and scheduler states" in resumed
    assert skipped("pre_train_vocoder", resumed)
    for name in ("final.safetensors", "history.csv"):
        assert clone.digest(f"{ADAPTER}/published/{name}") == other.digest(f"{ADAPTER}/published/{name}"), name
    assert clone.digest(f"{TUNED}/published/final.safetensors") == other.digest(f"{TUNED}/published/final.safetensors")
    assert {name: data for name, data in clone.live().items() if name in kept and name == parent} == {
        parent: kept[parent]
    }

    fresh = clone.experiment(seed, "train_adapter.steps=40")  # null again invalidates nothing
    assert all(
        skipped(stage, fresh) for stage in ("train_adapter", "pre_train_vocoder", "finetune_vocoder", "evaluate")
    )


def test_resuming_a_finished_stage_to_the_same_bits_leaves_downstream_unchanged(clone: Clone) -> None:
    before = clone.digest(f"{ADAPTER}/published/final.safetensors")
    output = clone.experiment(f"checkpoint.resume_from={ADAPTER}/checkpoint_4.pt")
    assert "Running stage 'train_adapter'" in output
    assert clone.digest(f"{ADAPTER}/published/final.safetensors") == before
    assert all(skipped(stage, output) for stage in ("pre_train_vocoder", "finetune_vocoder", "evaluate"))


def test_resuming_the_vocoder_leaves_the_adapter_alone(clone: Clone) -> None:
    before = clone.live()
    output = clone.experiment(f"checkpoint.resume_from={VOCODER}/checkpoint_4.pt")
    assert skipped("train_adapter", output)
    assert "Running stage 'pre_train_vocoder'" in output
    assert skipped("finetune_vocoder", output)
    unchanged = {name: data for name, data in before.items() if name.startswith(ADAPTER)}
    assert {name: data for name, data in clone.live().items() if name.startswith(ADAPTER)} == unchanged


def test_a_list_resumes_two_stages_and_no_third(clone: Clone) -> None:
    before = {name: clone.digest(f"{name}/published/final.safetensors") for name in (ADAPTER, VOCODER)}
    output = clone.experiment(f"checkpoint.resume_from=[{ADAPTER}/checkpoint_4.pt,{VOCODER}/checkpoint_2.pt]")
    assert [line for line in output.splitlines() if "Resuming from step" in line] == [
        "[INFO] Resuming from step 4",
        "[INFO] Resuming from step 2",
    ]
    assert {name: clone.digest(f"{name}/published/final.safetensors") for name in before} == before
    assert skipped("finetune_vocoder", output)


def test_the_command_after_a_sigterm_repeats_every_setting(clone: Clone) -> None:
    settings = ("train_adapter.seed=6", "train_adapter.steps=200", "pre_train_vocoder.seed=7")

    def began() -> bool:
        return "Saved" in (clone.root / ".git/interrupted.log").read_text()

    output = clone.interrupted(*settings, when=began, kill="script", number=signal.SIGTERM)
    command = output.split("Resume with:\n")[1].splitlines()[0].strip()
    assert all(f"-S {setting}" in command for setting in settings), command
    begin, *words = shlex.split(command)[2:]
    assert begin == "dvc"
    resumed = clone.dvc(*words)
    assert "Configuration changes" not in resumed
    described = read_json(clone.root / f"{ADAPTER}/checkpoint_200.json")
    assert len(described["parents"]) == 1
    fresh = clone.experiment(*settings)
    assert all(skipped(stage, fresh) for stage in ("train_adapter", "pre_train_vocoder", "finetune_vocoder"))


def test_two_processes_train_through_one_parameter(clone: Clone) -> None:
    launch = "train_adapter.runtime.launch='torchrun --standalone --nproc-per-node=2'"
    output = clone.experiment(launch, "train_adapter.seed=8")
    assert "torchrun --standalone --nproc-per-node=2 stages/train_adapter.py" in output
    described = read_json(clone.root / f"{ADAPTER}/checkpoint_8.json")
    assert described["environment"]["ranks"] == "2"
    again = clone.experiment(launch, "train_adapter.seed=8")
    assert skipped("train_adapter", again)


def test_a_finished_stage_is_extended(clone: Clone) -> None:
    output = clone.experiment("train_adapter.steps=10", f"checkpoint.resume_from={ADAPTER}/checkpoint_8.pt")
    assert "Running stage 'train_adapter'" in output
    assert "Running stage 'finetune_vocoder'" in output
    described = read_json(clone.root / f"{ADAPTER}/checkpoint_10.json")
    assert [parent["step"] for parent in described["parents"]] == [8]
    assert clone.digest(f"{ADAPTER}/history.csv").decode().splitlines()[-1].startswith("10,")


def test_going_back_to_an_older_experiment_loses_no_live_file(clone: Clone) -> None:
    clone.dvc("exp", "run", "-n", "older", "-S", "train_adapter.seed=3")
    older = clone.digest(f"{ADAPTER}/published/final.safetensors")
    clone.dvc("exp", "run", "-n", "newer", "-S", "train_adapter.seed=4")
    assert clone.digest(f"{ADAPTER}/published/final.safetensors") != older
    live = clone.live()
    clone.dvc("exp", "apply", "older")
    assert clone.digest(f"{ADAPTER}/published/final.safetensors") == older
    clone.run("git", "checkout", "-q", "-f", "main")
    clone.dvc("checkout", "--force")
    assert {name: data for name, data in clone.live().items() if name in live} == live
    shown = clone.dvc("exp", "show", "--only-changed", "--csv")
    assert "older" in shown
    assert "newer" in shown


def test_a_queue_of_two_experiments_runs_both(clone: Clone) -> None:
    for seed in (11, 12):
        clone.dvc("exp", "run", "--queue", "-n", f"seed-{seed}", "-S", f"train_adapter.seed={seed}")
    clone.dvc("exp", "run", "--run-all")
    rows = clone.dvc("exp", "show", "--only-changed", "--csv")
    assert "seed-11" in rows
    assert "seed-12" in rows
    assert "Failed" not in clone.dvc("queue", "status")


def test_push_clone_pull_repro_is_up_to_date(clone: Clone, tmp_path: Path) -> None:
    clone.dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    commit(clone, "remote")
    clone.dvc("push")
    other = Clone(tmp_path / "colleague")
    clone.run("git", "clone", "-q", ".", str(other.root))
    other.dvc("pull")
    assert "Data and pipelines are up to date." in other.dvc("repro")
    assert other.digest(f"{TUNED}/published/final.safetensors") == clone.digest(f"{TUNED}/published/final.safetensors")
    shown = other.experiment(f"checkpoint.resume_from={{train_adapter: {clone.root}/{ADAPTER}/checkpoint_4.pt}}")
    assert "[INFO] Resuming from step 4" in shown
    assert skipped("finetune_vocoder", shown)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("configs", "params.yaml was composed from other files than configs/ holds now"),
        ("params", "was edited by hand"),
    ],
)
def test_a_stale_params_yaml_stops_repro_and_says_what_to_do(clone: Clone, change: str, sentence: str) -> None:
    if change == "configs":
        edit(clone.root / "configs/train_adapter/adapter_mini.yaml", {"seed": 9})
    else:
        params = yaml.safe_load((clone.root / "params.yaml").read_text())
        params["checkpoint"]["resume_from"] = f"{ADAPTER}/checkpoint_4.pt"
        (clone.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    live = clone.live()
    output = " ".join(clone.dvc("repro", check=False).split())
    assert sentence in output
    assert "uv run" in output
    assert "Running stage 'train_adapter'" not in output
    assert clone.live() == live


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (f"{ADAPTER}/published/checkpoint_4.pt", "DVC empties published/"),
        ("elsewhere/checkpoint_4.pt", "lies in no stage's folder"),
        (f"{ADAPTER}/checkpoint_5.pt", "Checkpoint specified in `resume_from` not found"),
    ],
)
def test_a_resume_that_cannot_be_routed_stops_before_anything(clone: Clone, path: str, sentence: str) -> None:
    live = clone.live()
    published = clone.digest(f"{ADAPTER}/published/final.safetensors")
    output = " ".join(clone.experiment(f"checkpoint.resume_from={path}", check=False).split())
    assert sentence in output
    assert clone.live() == live
    assert clone.digest(f"{ADAPTER}/published/final.safetensors") == published


def test_a_relative_path_from_a_subfolder_says_where_it_is_taken_from(clone: Clone) -> None:
    words = ("exp", "run", "-S", f"checkpoint.resume_from=../{ADAPTER}/checkpoint_4.pt")
    output = " ".join(clone.dvc(*words, check=False, cwd="stages").split())
    assert "a relative path is taken from the repository" in output
