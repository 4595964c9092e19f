"""history.csv has a row for each step that was logged, and continues from the step resumed from."""

from pathlib import Path

import pytest

from miipher2.training.history import History

COLUMNS = ("loss", "valid/loss")


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    history = History(COLUMNS, path=tmp_path / "history.csv")
    history.append(1, {})
    history.append(2, {"loss": 0.1 + 0.2})
    history.append(3, {"valid/loss": float("nan"), "loss": 1e-9})
    assert history.text == "step,loss,valid/loss\n2,0.3,\n3,1e-09,nan\n"
    assert (tmp_path / "history.csv").read_text() == history.text


def test_history_continues_from_the_checkpoint_and_not_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("step,loss,valid/loss\n1,1,\n2,2,\n3,3,\n4,4")
    history = History(COLUMNS, path=tmp_path / "history.csv", text="step,loss,valid/loss\n1,1,\n2,2,\n")
    history.append(3, {"loss": 5.0})
    assert (tmp_path / "history.csv").read_text() == "step,loss,valid/loss\n1,1,\n2,2,\n3,5,\n"


def test_a_metric_that_the_recipe_does_not_name_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="other"):
        History(COLUMNS, path=None).append(1, {"other": 1.0})


def test_without_a_file_the_text_is_kept_in_memory() -> None:
    history = History(COLUMNS, path=None)
    history.append(1, {"loss": 2.0})
    assert history.text == "step,loss,valid/loss\n1,2,\n"
