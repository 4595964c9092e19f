"""params.yaml matches configs/, is detected when it does not, and records the overrides it was composed with."""

import pytest
from omegaconf import OmegaConf

from miipher2.config.params import compose_config, compose_params, find_problem
from miipher2.config.paths import ROOT

PIPELINE = OmegaConf.load(ROOT / "params.yaml")


def test_params_yaml_matches_configs() -> None:
    assert find_problem(OmegaConf.load(ROOT / "params.yaml")) is None
    assert OmegaConf.load(ROOT / "params.yaml") == compose_params([])


def test_an_edited_configuration_is_detected() -> None:
    params = compose_params([])
    params.configs_digest = "0" * 16
    assert "uv run miipher2 params" in str(find_problem(params))


def test_a_resume_from_edited_by_hand_is_detected(tmp_path: pytest.TempPathFactory) -> None:
    file = ROOT / "LICENSE"
    params = compose_params([])
    params.checkpoint.resume_from = {"train_adapter": str(file)}
    assert "edited by hand" in str(find_problem(params))


def test_overrides_are_recorded_without_the_resume() -> None:
    params = compose_params(["train_adapter.optim.lr=0.5", "checkpoint.resume_from=null", "experiment=mini_long"])
    assert params.overrides == ["train_adapter.optim.lr=0.5", "experiment=mini_long"]


def test_a_stages_own_configuration_records_none() -> None:
    assert "overrides" not in compose_config("adapter_mini", ["seed=4"], group="train_adapter")


@pytest.mark.parametrize(
    "key",
    [
        *("resume_from", "checkpoint.resume_fron", "resume.adapter", "resume_param.x", "encoder_folder.x", "data.x"),
        *("evaluate.x", "train_adapter.x", "train_adapter.optim.x", "pre_train_vocoder.model.generator.x"),
    ],
)
def test_an_unknown_key_of_any_group_is_found_before_any_stage_starts(key: str) -> None:
    params = PIPELINE.copy()
    OmegaConf.update(params, key, "x", force_add=True)
    assert key.rpartition(".")[2] in str(find_problem(params))
    assert "no such key" in str(find_problem(params)) or "not in" in str(find_problem(params))


def test_a_value_out_of_range_is_found_before_any_stage_starts() -> None:
    params = compose_params(["pre_train_vocoder.optim.lr=-1"])
    assert find_problem(params) == "pre_train_vocoder.optim.lr=-1.0: should be greater than 0"
