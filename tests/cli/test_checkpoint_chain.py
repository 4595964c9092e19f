"""`miipher2 checkpoint verify --chain`: from weights or a checkpoint back to the first step, offline."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import Command, flip
from tiny_run import Tiny, rewrite

from miipher2.atomic_io import sha256_of
from miipher2.training.history import CHAIN
from miipher2.training.summary import json_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run to step 12, resumed at 8, with the checkpoints 8, 10 and 12; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    Tiny(folder, steps=8, save_interval=2)()
    Tiny(folder, save_interval=2, keep_last_n=2)(folder / "checkpoint_8.pt")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def states(result: Any) -> list[tuple[str, int]]:
    """Return `ok` or `gone` and the step, line by line."""
    words = [line.split() for line in result.out.splitlines()[:-1]]
    return [(line[0], int(line[2].rstrip(":"))) for line in words]


@pytest.mark.parametrize(
    "file", ["published/final.safetensors", "published/checkpoint_12.pt", "checkpoint_12.pt", "checkpoint_10.pt"]
)
def test_the_chain_reaches_the_first_step_through_removed_checkpoints(
    folder: Path, file: str, miipher2: Command
) -> None:
    result = miipher2("checkpoint", "verify", "--chain", folder / file)
    assert result.code == 0, result.out
    steps = (10, 8, 6, 4, 2) if "10" in file else (12, 10, 8, 6, 4, 2)
    assert states(result) == [("ok" if step >= 8 else "gone", step) for step in steps]
    assert result.out.endswith(f"whole   {len(steps)} checkpoints back to the first step, 3 of them gone\n")
    printed = json.loads(miipher2("checkpoint", "verify", "--chain", "--json", folder / file).out)
    assert printed["ok"] is True
    assert [link["step"] for link in printed["chain"]] == list(steps)
    assert [link["since_parent"]["step"] for link in printed["chain"]] == [step - 2 for step in steps]
    assert {link["since_parent"]["data_sha256"] for link in printed["chain"]} == {"d" * 64}


def test_a_checkpoints_json_names_its_parent_and_what_happened_since(trained: Path) -> None:
    summaries = {step: json.loads((trained / f"checkpoint_{step}.json").read_text()) for step in (8, 10, 12)}
    assert summaries[12]["parent_sha256"] == summaries[10]["sha256"]
    assert summaries[10]["parent_sha256"] == summaries[8]["sha256"]
    batches = {summary["since_parent"]["batches_sha256"] for summary in summaries.values()}
    assert len(batches) == 3


def test_the_digest_of_the_batches_does_not_depend_on_a_resume(trained: Path, tmp_path: Path) -> None:
    Tiny(tmp_path / "run", save_interval=2)()
    ours, theirs = (
        [json.loads(line) for line in (each / CHAIN).read_text().splitlines()] for each in (tmp_path / "run", trained)
    )
    assert [link["since_parent"] for link in ours] == [link["since_parent"] for link in theirs]


def edit_link(path: Path, step: int, change: Callable[[dict[str, Any]], None]) -> None:
    links = [json.loads(line) for line in path.read_text().splitlines()]
    change(next(link for link in links if link.get("step") == step))
    path.write_text("".join(json.dumps(link) + "\n" for link in links))


def edit_json(path: Path, **changed: Any) -> None:
    beside = json_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changed))


def other_checkpoint(folder: Path) -> None:
    """Put an intact checkpoint of the run, with other content, in the place of step 10."""
    path = folder / "checkpoint_10.pt"
    summary = json.loads(json_path(path).read_text())
    rewrite(path, lambda it: it["best"].update(value=0.0))
    json_path(path).write_text(json.dumps(summary | {"sha256": sha256_of(path)}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda it: flip(it / "checkpoint_10.pt"), "checkpoint_10.pt: sha256 is"),
    "another checkpoint": (other_checkpoint, "checkpoint_10.pt: sha256 is"),
    "other batches of a removed one": (
        lambda it: edit_link(it / CHAIN, 4, lambda link: link["since_parent"].update(batches_sha256="0" * 64)),
        "the chain breaks at the link of step 4: it or its parent's was changed",
    ),
    "another sha256 of a removed one": (
        lambda it: edit_link(it / CHAIN, 4, lambda link: link.update(sha256="0" * 64)),
        "the chain breaks at the link of step 6: its parent's link is missing",
    ),
    "another parent in a JSON": (
        lambda it: edit_json(it / "checkpoint_10.pt", parent_sha256="0" * 64),
        "checkpoint_10.pt: its JSON and chain.jsonl differ",
    ),
    "a chain cut at its beginning": (
        lambda it: (it / CHAIN).write_text("".join((it / CHAIN).read_text().splitlines(True)[2:])),
        "the chain breaks at the link of step 6: its parent's link is missing",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_chain_that_was_changed_is_named_where_it_breaks(folder: Path, kind: str, miipher2: Command) -> None:
    change, message = DAMAGE[kind]
    change(folder)
    result = miipher2("checkpoint", "verify", "--chain", folder / "checkpoint_12.pt")
    assert result.code == 1
    assert result.out.splitlines()[-1].startswith("FAILED  ")
    assert message in result.out.splitlines()[-1]


def test_weights_that_the_chain_does_not_record_are_named(folder: Path, miipher2: Command) -> None:
    weights = folder / "published/final.safetensors"
    line = (folder / "published" / CHAIN).read_text().splitlines()[-1]
    assert json.loads(line)["weights"].keys() == {"final.safetensors"}
    moved = weights.rename(weights.with_name("other.safetensors"))
    result = miipher2("checkpoint", "verify", "--chain", moved)
    assert result.code == 1
    assert f"{moved}: sha256 is" in result.out
    assert "chain.jsonl beside it says nothing about it" in result.out


def test_a_run_resumed_in_another_folder_has_the_whole_chain(folder: Path, tmp_path: Path, miipher2: Command) -> None:
    other = tmp_path / "other"
    Tiny(other, steps=14)(folder / "checkpoint_10.pt")
    result = miipher2("checkpoint", "verify", "--chain", other / "checkpoint_14.pt")
    assert result.code == 0, result.out
    assert states(result) == [*[("ok", step) for step in (14, 12, 10, 8)], *[("gone", step) for step in (6, 4, 2)]]
    shutil.rmtree(folder)
    assert miipher2("checkpoint", "verify", "--chain", other / "published/final.safetensors").code == 0


def test_a_kill_between_a_checkpoint_and_its_line_loses_no_link(folder: Path, miipher2: Command) -> None:
    text = (folder / CHAIN).read_text()
    (folder / CHAIN).write_text(text[: text.rstrip().rindex("\n") + 30])  # the last line is cut
    Tiny(folder, steps=14, save_interval=2)(folder / "checkpoint_12.pt")
    result = miipher2("checkpoint", "verify", "--chain", folder / "checkpoint_14.pt")
    assert result.code == 0, result.out


def test_the_chain_of_a_run_that_an_earlier_version_began_ends_at_its_checkpoint(
    tmp_path: Path, miipher2: Command
) -> None:
    old = Path(__file__).parents[1] / "training/format_1/checkpoint_4.pt"
    Tiny(tmp_path / "run")(old)
    result = miipher2("checkpoint", "verify", "--chain", tmp_path / "run/checkpoint_12.pt")
    assert result.code == 1
    assert states(result) == [("ok", 12), ("ok", 8)]
    ends = f"the chain ends before the first step: {old} was saved by a version that recorded no parent"
    assert ends in result.out


def test_a_folder_has_no_chain(trained: Path, miipher2: Command) -> None:
    result = miipher2("checkpoint", "verify", "--chain", trained)
    assert result.code == 2
    assert f"{trained}: --chain starts from one file" in result.error
