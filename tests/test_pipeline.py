"""dvc.yaml: dependencies cover the imports, parameters are the schema; requirements.lock is fresh."""

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
from miipher2.config.schema import SCHEMAS, STAGES, TRAINING_STAGES
from miipher2.training.config_diff import is_harmless

DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PIPELINE = DVC_YAML["stages"]
RESULT_FREE = ("src/miipher2/tracking/", "src/miipher2/__init__.py")


def module_file(module: str) -> Path | None:
    """Return the file of one of our modules, or None."""
    path = ROOT / "src" / Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def closure(stage: str) -> set[str]:
    """Return our files that a stage executes, by its script's imports and, for training, by its recipe's."""
    found: set[Path] = set()
    waiting = [ROOT / "stages" / f"{stage}.py"]
    if stage in TRAINING_STAGES:
        recipe = module_file(STAGES[stage].recipe.partition(":")[0])
        assert recipe is not None
        found.add(recipe)
        waiting.append(recipe)
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("miipher2"):
                continue
            words = str(node.module).split(".")
            packages = [".".join(words[:count]) for count in range(1, len(words) + 1)]
            for name in (*packages, *(f"{node.module}.{alias.name}" for alias in node.names)):
                file = module_file(name)
                if file is not None and file not in found:
                    found.add(file)
                    waiting.append(file)
    return {path.relative_to(ROOT).as_posix() for path in found}


def covers(dependency: str, file: str) -> bool:
    """Return whether a file is a dependency or lies in a folder that is one."""
    return file == dependency or file.startswith(f"{dependency}/")


@pytest.mark.parametrize("stage", PIPELINE)
def test_dependencies_cover_the_imports(stage: str) -> None:
    listed = [path for path in PIPELINE[stage]["deps"] if path.startswith("src/")]
    needed = {path for path in closure(stage) if not path.startswith(RESULT_FREE) and not is_docstring(path)}
    assert sorted(file for file in needed if not any(covers(path, file) for path in listed)) == []
    assert [path for path in listed if not any(covers(path, file) for file in closure(stage))] == []
    assert f"stages/{stage}.py" in PIPELINE[stage]["deps"]


def is_docstring(path: str) -> bool:
    """Return whether a file is a package's docstring and nothing else."""
    return path.endswith("__init__.py") and len(ast.parse((ROOT / path).read_text()).body) == 1


@pytest.mark.parametrize("stage", TRAINING_STAGES)
def test_what_cannot_alter_a_result_retrains_nothing(stage: str) -> None:
    dependencies = PIPELINE[stage]["deps"]
    harmless = ["src/miipher2/tracking/wandb_run.py", "src/miipher2/cli/restore.py", "README.md", "docs/dvc.md"]
    harmless += ["src/miipher2/preparation/prepare.py", "src/miipher2/inference/restorer.py"]
    assert all((ROOT / file).is_file() for file in harmless)
    assert [file for file in harmless if any(covers(path, file) for path in dependencies)] == []


def test_editing_the_vocoder_leaves_the_adapter_alone() -> None:
    dependencies = PIPELINE["train_adapter"]["deps"]
    vocoder = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src/miipher2/models/vocoder").glob("*.py")]
    assert len(vocoder) > 5
    edited = [*vocoder, "src/miipher2/recipes/vocoder.py"]
    assert [file for file in edited if any(covers(path, file) for path in dependencies)] == []


def test_artifacts_are_outputs_of_the_pipeline_or_ship() -> None:
    outputs = {out if isinstance(out, str) else next(iter(out)) for each in PIPELINE.values() for out in each["outs"]}
    paths = {artifact["path"] for artifact in DVC_YAML["artifacts"].values()}
    assert paths - outputs == {"models/mini/restorer"}
    assert (ROOT / "models/mini/restorer").is_dir()


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
