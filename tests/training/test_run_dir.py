"""A run's folder: what is set aside, rotated and published; no checkpoint of anyone is ever lost."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_run import CONFIG, Tiny, content_of, differences

from miipher2.training.checkpoint import load
from miipher2.training.summary import file_name, json_path, list_checkpoints, step_of


def names(folder: Path) -> list[str]:
    """Return the checkpoints and JSONs in a folder."""
    return sorted(path.name for path in folder.glob("checkpoint_*"))


def both(*steps: int) -> list[str]:
    return sorted(f"checkpoint_{step}.{kind}" for step in steps for kind in ("pt", "json"))


def digests(root: Path) -> set[str]:
    """Return the digests of all checkpoints anywhere below."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("checkpoint_*.pt")}


@pytest.mark.parametrize(
    ("step", "name"), [(0, "checkpoint_0.pt"), (999, "checkpoint_999.pt"), (1000, "checkpoint_1k.pt"),
                       (1500, "checkpoint_1500.pt"), (10_000, "checkpoint_10k.pt"), (10_001, "checkpoint_10001.pt")]
)  # fmt: skip
def test_every_step_has_a_name_of_its_own(step: int, name: str) -> None:
    assert file_name(step) == name
    assert step_of(Path(name)) == step
    assert step_of(Path(f".{name}.tmp")) is None


def test_checkpoints_are_listed_by_step_and_not_by_name(tmp_path: Path) -> None:
    for name in (
        "checkpoint_1k.pt",
        "checkpoint_900.pt",
        "checkpoint_1500.pt",
        "checkpoint_best.pt",
        "checkpoint_2k.pt",
    ):
        (tmp_path / name).touch()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [900, 1000, 1500, 2000]


def test_the_json_describes_the_checkpoint(tmp_path: Path) -> None:
    Tiny(tmp_path / "run", steps=4)()
    file = tmp_path / "run/checkpoint_4.pt"
    summary = json.loads(json_path(file).read_text())
    assert summary["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert summary["bytes"] == file.stat().st_size
    expected = [
        "format",
        "stage",
        "step",
        "run_id",
        "config",
        "wandb",
        "parents",
        "best",
        "upstream_digests",
        "data_sha256",
        "environment",
        "rng_sha256",
    ]
    assert set(expected) <= summary.keys()
    assert set(summary["rng_sha256"]["0"]) == {"python", "numpy", "torch", "cuda"}


def test_a_fresh_start_sets_everything_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder)()
    (folder / "notes.txt").write_text("mine")
    before = digests(folder)
    done = Tiny(folder, steps=4)()
    assert done.run.start_step == 0
    assert done.aside is not None
    assert done.aside.parent == tmp_path / ".replaced"
    assert names(done.aside) == both(4, 8, 12)
    assert {"notes.txt", "history.csv", "config.yaml"} <= {path.name for path in done.aside.iterdir()}
    assert names(folder) == both(4)
    assert before <= digests(tmp_path)
    # The earlier run's published/ too, when the new one has something to publish.
    published = list((tmp_path / ".replaced").glob("*/published"))
    assert [names(path) for path in published] == [both(8, 12)]
    for path in list_checkpoints(done.aside):
        load(path[1])


def test_a_resume_sets_later_steps_aside_with_their_history(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder)()
    history, before = (folder / "history.csv").read_text(), digests(folder)
    done = Tiny(folder, steps=6)(folder / "checkpoint_4.pt")
    assert done.aside is not None
    assert names(done.aside) == both(8, 12)
    assert (done.aside / "history.csv").read_text() == history
    assert names(folder) == both(4, 6)
    assert (folder / "history.csv").read_text() == "".join(history.splitlines(keepends=True)[:7])
    assert before <= digests(tmp_path)


def test_a_resume_from_elsewhere_sets_the_other_lineage_aside(tmp_path: Path) -> None:
    """Two branches of one run share its id, and are still two lineages."""
    folder = tmp_path / "run"
    Tiny(folder)()
    other = {**CONFIG, "optim": {"lr": 1.0}}
    branch = Tiny(folder, steps=6, config=other, save_interval=1)(folder / "checkpoint_4.pt")
    assert branch.aside is not None
    before = digests(tmp_path)
    back = Tiny(folder, steps=12)(branch.aside / "checkpoint_8.pt")
    assert back.aside is not None
    assert names(back.aside) == both(4, 5, 6)
    assert names(folder) == both(12)
    assert content_of(folder / "checkpoint_12.pt")["parents"][-1]["path"] == str(branch.aside / "checkpoint_8.pt")
    assert before <= digests(tmp_path)


def test_a_resume_from_a_copy_keeps_the_same_checkpoints_of_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder)()
    shutil.copytree(folder, tmp_path / "backup")
    for given in (folder / "published/checkpoint_8.pt", tmp_path / "backup/checkpoint_8.pt"):
        Tiny(folder, keep_last_n=1)(given)
        assert names(folder) == both(8, 12), "the twin of the parent was removed"
        assert differences(folder / "checkpoint_12.pt", tmp_path / "backup/checkpoint_12.pt") == []


def test_a_run_can_be_resumed_in_another_folder(tmp_path: Path) -> None:
    Tiny(tmp_path / "one")()
    Tiny(tmp_path / "two", steps=4)()
    done = Tiny(tmp_path / "two")(tmp_path / "one/checkpoint_8.pt")
    assert done.aside is not None
    assert names(done.aside) == both(4)
    assert names(tmp_path / "two") == both(12)
    assert differences(tmp_path / "two/checkpoint_12.pt", tmp_path / "one/checkpoint_12.pt") == []
    assert names(tmp_path / "one") == both(4, 8, 12)


def test_a_parent_without_json_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder)()
    json_path(folder / "checkpoint_8.pt").unlink()
    for _ in range(2):  # a second time, as after a kill: the same command must still work
        Tiny(folder, keep_last_n=1)(folder / "checkpoint_8.pt")
        assert (folder / "checkpoint_8.pt").exists()


def test_rotation_counts_by_step_and_keeps_the_parent_and_other_runs(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=8, save_interval=2)()
    Tiny(tmp_path / "other", steps=9, save_interval=3)()
    resumed = Tiny(folder, steps=8, save_interval=2)(folder / "checkpoint_4.pt")
    for kind in ("pt", "json"):
        shutil.copyfile(tmp_path / f"other/checkpoint_3.{kind}", folder / f"checkpoint_3.{kind}")
    (folder / "checkpoint_1.pt").write_bytes(b"unknown")
    from miipher2.training.run_dir import rotate

    removed = rotate(folder, run_id=resumed.run.run_id, keep_last_n=1, parent=resumed.run.parent)
    assert [path.name for path in removed] == ["checkpoint_2.pt", "checkpoint_6.pt"]
    assert names(folder) == sorted([*both(3, 4, 8), "checkpoint_1.pt"])


def test_the_parent_is_kept_under_any_spelling_of_its_path(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=4)()
    (tmp_path / "linked").symlink_to(folder)
    for given in ("run/checkpoint_4.pt", "linked/checkpoint_4.pt", "./run/../linked/checkpoint_4.pt"):
        given = f"{tmp_path}/{given}"
        Tiny(folder, save_interval=1, keep_last_n=1)(given)
        assert names(folder) == both(4, 12)


def test_keep_last_n_keeps_the_newest_by_step(tmp_path: Path) -> None:
    Tiny(tmp_path / "run", steps=12, save_interval=1, keep_last_n=3)()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [10, 11, 12]


def test_half_written_files_are_cleared_and_never_taken_for_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=4)()
    (folder / ".checkpoint_8.pt.tmp").write_bytes(b"half")
    (folder / ".published.tmp").mkdir()
    (folder / ".published.tmp/final.safetensors").write_bytes(b"half")
    (folder / "history.csv").open("a").write("5,0.3")  # half a line
    assert [step for step, _ in list_checkpoints(folder)] == [4]
    Tiny(folder)(folder / "checkpoint_4.pt")
    assert not list(folder.glob(".*.tmp"))
    assert len((folder / "history.csv").read_text().splitlines()) == 13


def test_published_holds_the_newest_and_equal_weights_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Tiny(tmp_path / name)()
    one, two = tmp_path / "one/published", tmp_path / "two/published"
    assert names(one) == both(8, 12)
    assert (one / "checkpoint_12.pt").stat().st_ino == (tmp_path / "one/checkpoint_12.pt").stat().st_ino
    for file in ("final.safetensors", "history.csv", "config.yaml"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert load(one / "checkpoint_12.pt")


def test_published_of_an_unknown_run_is_set_aside_and_not_removed(tmp_path: Path) -> None:
    (tmp_path / "run/published").mkdir(parents=True)
    (tmp_path / "run/published/final.safetensors").write_bytes(b"someone's")
    Tiny(tmp_path / "run", steps=4)()
    found = [path.read_bytes() for path in (tmp_path / ".replaced").glob("*/published/final.safetensors")]
    assert found == [b"someone's"]
