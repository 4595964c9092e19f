"""dvc.yaml: code dependencies are the imports, parameters are the schema without what may differ."""

import ast
import re
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from miipher2.config.paths import ROOT
from miipher2.config.schema import SCHEMAS, TRAINING_STAGES
from miipher2.training.config_diff import is_harmless

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported_files(script: Path) -> set[str]:
    """Return our files that a script imports, directly and indirectly; a package's docstring is no dependency."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("miipher2"):
                continue
            for name in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)):
                file = (ROOT / "src" / Path(*name.split("."))).with_suffix(".py")
                if file.is_file() and file not in found:
                    found.add(file)
                    waiting.append(file)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.mark.parametrize("stage", PIPELINE)
def test_code_dependencies_are_exactly_the_imports(stage: str) -> None:
    listed = {path for path in PIPELINE[stage]["deps"] if path.startswith(("src/", "stages/"))}
    code = {path for path in listed if path.endswith(".py")}
    assert code == imported_files(ROOT / "stages" / f"{stage}.py") | {f"stages/{stage}.py"}


def test_the_adapter_does_not_depend_on_the_vocoder() -> None:
    assert not any("hifigan" in path or "vocoder" in path for path in PIPELINE["train_adapter"]["deps"])


@pytest.mark.parametrize("stage", TRAINING_STAGES)
def test_parameters_are_the_schema_without_what_cannot_alter_a_result(stage: str) -> None:
    sections = set(OmegaConf.structured(SCHEMAS[stage]))
    wanted = {f"{stage}.{key}" for key in sections if not is_harmless(key) and key != "runtime"}
    wanted |= {f"{stage}.name", f"{stage}.steps", f"{stage}.runtime.deterministic", f"{stage}.runtime.threads"}
    listed = [key for key in PIPELINE[stage]["params"] if not key.startswith("${")]
    assert sorted(listed) == sorted(wanted)
    assert f"${{resume_param.{stage}}}" in PIPELINE[stage]["params"]


def test_no_live_folder_is_an_output() -> None:
    for stage in TRAINING_STAGES:
        assert PIPELINE[stage]["outs"] == [f"exp/${{{stage}.name}}/published"]


def test_requirements_lock_is_what_pyproject_pins_and_what_is_installed() -> None:
    text = (ROOT / "requirements.lock").read_text()
    # Some have another version for another Python.
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.M):
        locked.setdefault(normal(name), set()).add(version)
    assert "://" not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted = {normal(name): {version} for name, version in (entry.split("==") for entry in pinned)}
    stale = "stale; run: uv export --no-emit-project --no-header -o requirements.lock"
    assert {name: locked.get(name) for name in wanted} == wanted, stale
    site = sysconfig.get_path("purelib")  # and not what some packages bring along for themselves
    installed = {normal(each.metadata["Name"]): each.version.partition("+")[0] for each in distributions(path=[site])}
    both = locked.keys() & installed.keys()
    assert len(both) > 150
    assert {name: installed[name] for name in both if installed[name] not in locked[name]} == {}, stale


def normal(name: str) -> str:
    """Return a distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()
