"""The layout: imports point down, files and folders stay readable, packages list their files, every setting is read."""

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from miipher2.config.paths import ROOT
from miipher2.config.schema import GENERATORS, STAGES

SOURCE = ROOT / "src" / "miipher2"
FILES = sorted(SOURCE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})
# Part → the parts that it may import. `cli` and `compose` wire, and so do the scripts in stages/.
MAY_IMPORT = {
    "rng": "",
    "atomic_io": "",
    "config": "atomic_io",
    "audio": "rng atomic_io config",
    "models": "config",
    "data": "rng atomic_io config audio",
    "preparation": "rng atomic_io config audio data",
    "tracking": "config audio",
    "training": "rng atomic_io config audio models data tracking",
    "recipes": "rng config audio models training",
    "inference": "rng atomic_io config audio models",
    "importing": "atomic_io config models inference training",
    "evaluation": "rng atomic_io config audio models data inference",
}
WIRING = ("cli", "compose")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            names = [alias.name for alias in node.names]
            yield from (f"{node.module}.{name}" for name in names) if node.module == "miipher2" else [str(node.module)]


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("part", [*MAY_IMPORT, *WIRING])
def test_imports_point_down(part: str) -> None:
    files = [path for path in FILES if path.relative_to(SOURCE).parts[0].removesuffix(".py") == part]
    ours = {name.split(".")[1] for path in files for name in imported(path) if name.startswith("miipher2.")}
    assert files
    if part not in WIRING:
        assert ours - {part} <= set(MAY_IMPORT[part].split())


def test_every_part_has_its_place() -> None:
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert parts == {*MAY_IMPORT, *WIRING}
    assert sorted(path.name for path in SOURCE.glob("*.py")) == ["__init__.py", "atomic_io.py", "rng.py"]


def test_sound_files_and_wandb_have_one_place_each() -> None:
    def importers(module: str) -> set[str]:
        return {relative(path) for path in FILES for name in imported(path) if name.split(".")[0] == module}

    assert {path.split("/")[0] for path in importers("soundfile")} == {"audio"}
    assert importers("wandb") == {"tracking/wandb_run.py"}


def test_config_imports_no_torch() -> None:
    """Every DVC command imports it."""
    heavy = {"torch", "torchaudio", "transformers", "wandb", "scipy", "matplotlib"}
    found = {name.split(".")[0] for path in FILES if relative(path).startswith("config/") for name in imported(path)}
    assert not found & heavy


def test_stage_scripts_are_thin() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "stages").glob("*.py")}
    assert lengths.pop("gather_mini_speech.py") <= 400  # no stage of the pipeline: it wires text-to-speech packages
    assert {name: lines for name, lines in lengths.items() if lines > 45} == {}


def test_files_and_folders_stay_readable() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    sizes = {relative(folder): len([*folder.glob("*.py")]) - 1 for folder in FOLDERS}
    assert {name: files for name, files in sizes.items() if files > 16} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_a_package_says_what_it_is_and_lists_its_files(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    summary, _, listing = docstring.partition("\n")
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    listed = re.findall(r"^(\w+)  +\S", listing, re.MULTILINE)
    assert len(summary) > 20
    assert sorted(listed) == sorted(names - {"__init__", "__main__"})


def test_the_readme_draws_eight_lines_with_every_package() -> None:
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("```")[1].strip().splitlines()
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()} - {"compose"}
    line = next(line for line in tree if line.startswith("src/miipher2/"))
    assert len(tree) == 8
    assert set(re.findall(r"\w+", line.removeprefix("src/miipher2/"))) == packages


def test_every_setting_is_read() -> None:
    """A key that no code names, as an attribute, keyword, argument or string, would be a knob without effect."""
    named: set[str] = set()
    for path in [*FILES, *(ROOT / "stages").glob("*.py")]:
        if path.name.startswith("schema"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.arg(arg=name):
                    named.add(name)
                case ast.Constant(value=str(text)):
                    named.add(text)
    keys = {key for stage in STAGES.values() for key in setting_names(stage.schema)}
    keys |= {key for schema in GENERATORS.values() for key in setting_names(schema)}
    assert len(keys) > 100
    assert sorted(keys - named) == []


def setting_names(schema: Any) -> set[str]:
    """Return the names of all fields of a dataclass and of the dataclasses in it."""
    names = {each.name for each in fields(schema)}
    for hint in get_type_hints(schema).values():
        for inner in (hint, *get_args(hint)):
            names |= setting_names(inner) if is_dataclass(inner) else set()
    return names


def test_gpus_are_hidden_from_the_tests_of_the_cpu(request: pytest.FixtureRequest) -> None:
    """Or forked children, of which some tests are made, would fail on every host that has one."""
    assert "not gpu" not in request.config.option.markexpr or os.environ["CUDA_VISIBLE_DEVICES"] == ""
