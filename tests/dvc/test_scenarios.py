"""What users do with DVC and what goes wrong: real DVC, pretend stages. Real stages are in tests/dvc/test_real.py."""

import shlex
import signal
import sys
from pathlib import Path

import pytest
import yaml
from dvc_clone import Clone, commit, edit, read_json
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow
STAGES = ("train_adapter", "pre_train_vocoder", "finetune_vocoder")
ADAPTER, VOCODER, TUNED = "exp/adapter_embedded", "exp/harmonic_pretrain_embedded", "exp/harmonic_ft_embedded"
WEIGHTS = "published/final.safetensors"


def is_skipped(stage: str, output: str) -> bool:
    return f"Stage '{stage}' didn't change, skipping" in output


def is_run(stage: str, output: str) -> bool:
    return f"Running stage '{stage}'" in output


def test_settings_that_cannot_alter_a_result_rerun_nothing(clone: Clone) -> None:
    output = clone.experiment(
        "train_adapter.log_interval=2",
        "train_adapter.loader.num_workers=1",
        "train_adapter.checkpoint.keep_last_n=3",
        "pre_train_vocoder.wandb.mode=offline",
        "pre_train_vocoder.wandb.notes=caption",
        "finetune_vocoder.runtime.device=auto",
    )
    assert all(is_skipped(stage, output) for stage in (*STAGES, "evaluate"))


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("src/miipher2/models/vocoder/hifigan.py", {"pre_train_vocoder", "finetune_vocoder", "evaluate"}),
        ("src/miipher2/recipes/adapter.py", {"train_adapter"}),
        ("src/miipher2/preparation/noise.py", {"prepare_data"}),
        ("src/miipher2/training/loop.py", set(STAGES)),
        ("src/miipher2/evaluation/report.py", {"evaluate"}),
        ("src/miipher2/tracking/wandb_run.py", set()),
        ("src/miipher2/cli/doctor.py", set()),
        ("README.md", set()),
    ],
)
def test_an_edit_reruns_only_the_stages_that_use_the_file(clone: Clone, file: str, rerun: set[str]) -> None:
    path = clone.root / file
    path.write_text(path.read_text() + "\n# an edit\n")
    output = clone.dvc("status", "--json")
    assert {stage for stage in (*STAGES, "prepare_data", "evaluate", "check_params") if f'"{stage}"' in output} == rerun


def test_params_diff_shows_the_change_and_the_override_that_made_it(clone: Clone) -> None:
    clone.run(sys.executable, "-m", "miipher2.compose", "train_adapter.optim.lr=0.5")
    lines = [line.split() for line in clone.dvc("params", "diff").splitlines()[1:] if line.strip()]
    assert [line[:2] for line in lines] == [["params.yaml", "overrides"], ["params.yaml", "train_adapter.optim.lr"]]
    assert [line[-1] for line in lines] == ["['train_adapter.optim.lr=0.5']", "0.5"]


def test_a_value_out_of_range_stops_before_any_output_is_removed(clone: Clone) -> None:
    published = [
        clone.root / f"exp/{name}/published/final.safetensors" for name in ("adapter_embedded", "harmonic_ft_embedded")
    ]
    before = [path.read_bytes() for path in published]
    output = clone.dvc("exp", "run", "-S", "train_adapter.optim.lr=-1", check=False)
    assert "train_adapter.optim.lr=-1.0: should be greater than 0" in output
    assert [path.read_bytes() for path in published] == before


def test_an_unknown_key_at_any_level_is_no_fresh_run(clone: Clone) -> None:
    live = clone.live()
    for setting in ("+resume_from=exp/adapter_embedded/checkpoint_4.pt", "+checkpoint.resume_fron=x"):
        output = clone.experiment("train_adapter.seed=5", setting, check=False)
        assert f"{setting[1:].partition('=')[0]}: no such key" in output
        assert not is_run("train_adapter", output)
    clone.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    params = clone.root / "params.yaml"
    params.write_text(params.read_text() + "resume_from: exp/adapter_embedded/checkpoint_4.pt\n")
    assert "resume_from: no such key" in clone.dvc("repro", check=False)
    assert clone.live() == live


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("exp run", "train_adapter.name="),
        ("exp run", "train_adapter.name=.."),
        ("exp run", "data.prepared=src"),
        ("exp run --queue", "data.prepared=src"),
        ("repro", "train_adapter.name=.."),
        ("repro", "data.prepared=src"),
    ],
)
def test_a_setting_that_would_empty_a_folder_stops_before_dvc_removes_it(
    clone: Clone, command: str, setting: str
) -> None:
    def files() -> set[Path]:
        folders = (clone.root / name for name in ("configs", "data", "exp", "src", "stages"))
        kept = {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}
        return kept - {clone.root / "exp/results/check_params.txt"}  # the output of the stage that objects

    before = files()
    words = [*command.split(), "-S", setting]
    if command == "repro":  # a hand edit
        key, _, value = setting.partition("=")
        params = OmegaConf.load(clone.root / "params.yaml")
        OmegaConf.update(params, key, value)
        OmegaConf.save(params, clone.root / "params.yaml")
        words = ["repro"]
    output = " ".join(clone.dvc(*words, check=False).split())
    assert f"{setting}: " in output.replace("=''", "=") or "both a dependency and an output" in output
    assert not is_run("train_adapter", output)
    assert files() == before
    assert not (clone.root / ".replaced").exists()


@pytest.mark.parametrize("kill", ["script", "dvc"])
def test_a_killed_experiment_resumes_to_the_same_result_and_downstream_is_skipped(clone: Clone, kill: str) -> None:
    settings = ("train_adapter.seed=5", "train_adapter.steps=40")
    clone.experiment(*settings)
    uninterrupted = {name: clone.digest(f"{ADAPTER}/published/{name}") for name in ("final.safetensors", "history.csv")}
    tuned = clone.digest(f"{TUNED}/{WEIGHTS}")
    clone.run("git", "checkout", "-q", "-f", "main")
    clone.dvc("checkout", "--force")
    clone.run("rm", "-rf", ".dvc/cache/runs")  # or DVC would take the finished run from its cache
    before = clone.live()
    run_id = read_json(clone.root / f"{ADAPTER}/checkpoint_6.json")["run_id"]

    def is_saved() -> bool:
        path = clone.root / f"{ADAPTER}/checkpoint_6.json"
        return path.is_file() and read_json(path)["run_id"] != run_id and path.with_suffix(".pt").is_file()

    clone.interrupted(*settings, when=is_saved, kill=kill, seconds_a_step=0.1)
    for orphan in clone.orphans():  # a killed dvc leaves its script running: ended here as a user would
        orphan.kill()
        orphan.wait(30)
    clone.run("git", "switch", "-q", "main", check=False)
    clone.run("git", "checkout", "-q", "main", check=False)
    set_aside = {path.name: path.read_bytes() for path in (clone.root / "exp/.replaced").rglob("checkpoint_*")}
    assert all(Path(name).name in set_aside for name in before if name.startswith(ADAPTER))
    parent = f"{ADAPTER}/checkpoint_6.pt"
    kept = clone.live()[parent]

    resumed = clone.experiment(*settings, f"checkpoint.resume_from={parent}")
    assert f"[INFO] Resuming from explicitly specified checkpoint: {parent}" in resumed
    assert "[INFO] Resuming from step 6" in resumed
    assert is_skipped("pre_train_vocoder", resumed)
    assert {name: clone.digest(f"{ADAPTER}/published/{name}") for name in uninterrupted} == uninterrupted
    assert clone.digest(f"{TUNED}/{WEIGHTS}") == tuned
    assert clone.live()[parent] == kept

    fresh = clone.experiment(*settings)  # back to null invalidates nothing
    assert all(is_skipped(stage, fresh) for stage in (*STAGES, "evaluate"))


def test_resuming_a_finished_stage_to_the_same_result_leaves_downstream_unchanged(clone: Clone) -> None:
    before = clone.digest(f"{ADAPTER}/{WEIGHTS}")
    output = clone.experiment(f"checkpoint.resume_from={ADAPTER}/checkpoint_4.pt")
    assert is_run("train_adapter", output)
    assert clone.digest(f"{ADAPTER}/{WEIGHTS}") == before
    assert all(is_skipped(stage, output) for stage in ("pre_train_vocoder", "finetune_vocoder", "evaluate"))


def test_resuming_the_vocoder_leaves_the_adapter_alone(clone: Clone) -> None:
    before = {name: data for name, data in clone.live().items() if name.startswith(ADAPTER)}
    output = clone.experiment(f"checkpoint.resume_from={VOCODER}/checkpoint_4.pt")
    assert is_skipped("train_adapter", output)
    assert is_run("pre_train_vocoder", output)
    assert is_skipped("finetune_vocoder", output)
    assert {name: data for name, data in clone.live().items() if name.startswith(ADAPTER)} == before


def test_a_list_resumes_two_stages_and_not_the_third(clone: Clone) -> None:
    before = {name: clone.digest(f"{name}/{WEIGHTS}") for name in (ADAPTER, VOCODER)}
    output = clone.experiment(f"checkpoint.resume_from=[{ADAPTER}/checkpoint_4.pt,{VOCODER}/checkpoint_2.pt]")
    assert [line for line in output.splitlines() if "Resuming from step" in line] == [
        "[INFO] Resuming from step 4",
        "[INFO] Resuming from step 2",
    ]
    assert {name: clone.digest(f"{name}/{WEIGHTS}") for name in before} == before
    assert is_skipped("finetune_vocoder", output)


def test_the_command_after_a_sigterm_repeats_every_setting(clone: Clone) -> None:
    settings = ("train_adapter.seed=6", "train_adapter.steps=60", "pre_train_vocoder.seed=7")

    def has_saved() -> bool:
        return "Saved" in (clone.root / ".git/interrupted.log").read_text()

    output = clone.interrupted(*settings, when=has_saved, kill="script", number=signal.SIGTERM, seconds_a_step=0.1)
    command = output.split("Resume with:\n")[1].splitlines()[0].strip()
    assert all(f"-S {setting}" in command for setting in settings), command
    dvc, *words = shlex.split(command)[2:]
    assert dvc == "dvc"
    clone.dvc(*words)
    assert len(read_json(clone.root / f"{ADAPTER}/checkpoint_60.json")["parents"]) == 1
    fresh = clone.experiment(*settings)
    assert all(is_skipped(stage, fresh) for stage in STAGES)


def test_a_finished_stage_is_extended(clone: Clone) -> None:
    output = clone.experiment("train_adapter.steps=10", f"checkpoint.resume_from={ADAPTER}/checkpoint_8.pt")
    assert is_run("train_adapter", output)
    assert is_run("finetune_vocoder", output)
    summary = read_json(clone.root / f"{ADAPTER}/checkpoint_10.json")
    assert [parent["step"] for parent in summary["parents"]] == [8]
    assert clone.digest(f"{ADAPTER}/history.csv").decode().splitlines()[-1].startswith("10,")


def test_going_back_to_an_older_experiment_loses_no_live_file(clone: Clone) -> None:
    clone.dvc("exp", "run", "-n", "older", "-S", "train_adapter.seed=3")
    older = clone.digest(f"{ADAPTER}/{WEIGHTS}")
    clone.dvc("exp", "run", "-n", "newer", "-S", "train_adapter.seed=4")
    assert clone.digest(f"{ADAPTER}/{WEIGHTS}") != older
    live = clone.live()
    clone.dvc("exp", "apply", "older")
    assert clone.digest(f"{ADAPTER}/{WEIGHTS}") == older
    clone.run("git", "checkout", "-q", "-f", "main")
    clone.dvc("checkout", "--force")
    assert {name: data for name, data in clone.live().items() if name in live} == live
    table = clone.dvc("exp", "show", "--only-changed", "--csv")
    assert "older" in table
    assert "newer" in table


def test_a_queue_of_two_experiments_runs_both(clone: Clone) -> None:
    for seed in (11, 12):
        clone.dvc("exp", "run", "--queue", "-n", f"seed-{seed}", "-S", f"train_adapter.seed={seed}")
    clone.dvc("exp", "run", "--run-all")
    table = clone.dvc("exp", "show", "--only-changed", "--csv")
    assert "seed-11" in table
    assert "seed-12" in table
    assert "Failed" not in clone.dvc("queue", "status")


def test_after_push_clone_and_pull_repro_is_up_to_date(clone: Clone, tmp_path: Path) -> None:
    clone.dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    commit(clone, "remote")
    clone.dvc("push")
    other = Clone(tmp_path / "colleague")
    clone.run("git", "clone", "-q", ".", str(other.root))
    other.dvc("pull")
    assert "Data and pipelines are up to date." in other.dvc("repro")
    assert other.digest(f"{TUNED}/{WEIGHTS}") == clone.digest(f"{TUNED}/{WEIGHTS}")
    output = other.experiment(f"checkpoint.resume_from={{train_adapter: {clone.root}/{ADAPTER}/checkpoint_4.pt}}")
    assert "[INFO] Resuming from step 4" in output
    assert is_skipped("finetune_vocoder", output)


def test_a_resumed_experiment_is_in_order_in_a_clone_without_its_checkpoint(clone: Clone, tmp_path: Path) -> None:
    clone.dvc(
        "exp",
        "run",
        "-n",
        "resumed",
        "-S",
        "evaluate.seed=3",
        "-S",
        f"checkpoint.resume_from={ADAPTER}/checkpoint_4.pt",
    )
    clone.dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    commit(clone, "resumed")
    clone.dvc("push")
    other = Clone(tmp_path / "colleague")
    clone.run("git", "clone", "-q", ".", str(other.root))
    other.dvc("pull")
    assert "Data and pipelines are up to date." in other.dvc("repro")
    assert other.run(sys.executable, "-m", "miipher2.cli.main", "doctor") == "nothing to report\n"
    params = OmegaConf.load(other.root / "params.yaml")
    params.evaluate.report_examples = 3  # the next edit
    OmegaConf.save(params, other.root / "params.yaml")
    output = other.dvc("repro")
    assert is_run("evaluate", output)
    assert is_skipped("train_adapter", output)


def test_the_command_for_a_published_checkpoint_resumes(clone: Clone) -> None:
    clone.run("rm", "-r", *(f"{ADAPTER}/{path.name}" for path in (clone.root / ADAPTER).glob("checkpoint_*")))
    miipher2 = (sys.executable, "-m", "miipher2.cli.main")
    words = (*miipher2, "checkpoint", "command", f"{ADAPTER}/published/checkpoint_8.pt")
    note, copy, command = clone.run("sh", "-c", f"{shlex.join(words)} 2>&1").splitlines()
    assert "copy the file out first" in note
    clone.run("sh", "-c", copy)
    output = clone.dvc(*shlex.split(command)[3:])
    assert "[INFO] Resuming from step 8" in output
    assert is_skipped("finetune_vocoder", output)


def test_a_damaged_published_file_is_restored_by_the_printed_command(clone: Clone) -> None:
    before, weights = clone.digest(f"{ADAPTER}/{WEIGHTS}"), clone.root / ADAPTER / WEIGHTS
    weights.unlink()
    weights.write_text("damaged")
    clone.dvc("checkout", "--force", str(weights.parent))
    assert clone.digest(f"{ADAPTER}/{WEIGHTS}") == before


def test_published_models_are_artifacts(clone: Clone) -> None:
    artifacts = yaml.safe_load((clone.root / "dvc.yaml").read_text())["artifacts"]
    assert set(artifacts) == {"adapter", "vocoder", "mini-restorer"}
    clone.run("git", "tag", "-a", "adapter@v1", "-m", "one")
    assert "adapter" in clone.run(sys.executable, "-c", "import dvc.repo; print(dvc.repo.Repo('.').artifacts.read())")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("configs", "params.yaml was composed from other files than configs/ holds now"),
        ("params", "was edited by hand"),
    ],
)
def test_a_stale_params_yaml_stops_repro_and_says_what_to_do(clone: Clone, change: str, sentence: str) -> None:
    if change == "configs":
        edit(clone.root / "configs/train_adapter/adapter_embedded.yaml", {"seed": 9})
    else:
        params = yaml.safe_load((clone.root / "params.yaml").read_text())
        params["checkpoint"]["resume_from"] = f"{ADAPTER}/checkpoint_4.pt"
        (clone.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    live = clone.live()
    output = " ".join(clone.dvc("repro", check=False).split())
    assert sentence in output
    assert "uv run" in output
    assert not is_run("train_adapter", output)
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
    published = clone.digest(f"{ADAPTER}/{WEIGHTS}")
    output = " ".join(clone.experiment(f"checkpoint.resume_from={path}", check=False).split())
    assert sentence in output
    assert clone.live() == live
    assert clone.digest(f"{ADAPTER}/{WEIGHTS}") == published


def test_a_relative_path_from_a_subfolder_says_where_it_starts(clone: Clone) -> None:
    words = ("exp", "run", "-S", f"checkpoint.resume_from=../{ADAPTER}/checkpoint_4.pt")
    output = " ".join(clone.dvc(*words, check=False, cwd="stages").split())
    assert "a relative path is taken from the repository" in output
