"""The architecture: imports point down, keys are read, files stay small."""

import ast
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from miipher2.config.paths import ROOT
from miipher2.config.schema import GENERATORS, SCHEMAS

SOURCE = ROOT / "src" / "miipher2"
# Package or module → what of ours it may import, beside its own siblings.
ALLOWED = {
    "schema_generator": set(),
    "schema_data": set(),
    "schema": {"schema_data", "schema_generator"},
    "feature_layers": set(),
    "config": {"feature_layers", "schema", "schema_generator"},
    "rng": set(),
    "durable": set(),
    "audio": {"durable"},
    "codecs": {"audio"},
    "losses": set(),
    "models": {"feature_layers"},
    "tracking": set(),
    "environment": set(),
    "data": {"rng", "audio", "codecs"},
    "training": {"durable", "rng"},
    "recipes": {"rng", "data", "losses", "models", "training"},
    "recording": {"audio", "durable"},
    "presenting": {"losses", "tracking", "training"},
    "restoring": {"audio", "recording", "models"},
    "demo": {"audio", "recording", "restoring"},
    "metrics": {"rng", "audio"},
    "evaluate": {"metrics"},
    "table": {"evaluate", "metrics"},
    "results": {"evaluate", "metrics", "table"},
    "report_tables": {"evaluate", "metrics", "results", "table"},
    "pictures": set(),
    "report_examples": {"audio", "evaluate", "metrics", "pictures"},
    "report": {"durable", "evaluate", "metrics", "pictures", "report_examples", "report_tables", "results"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def our_imports(path: Path) -> set[str]:
    """Return the dotted names below `miipher2` that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "miipher2":
            inner = (node.module or "").partition(".")[2]
            found |= {inner} if inner else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("miipher2.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path: Path) -> None:
    """Only the listed parts may be imported; wiring (stage, judge, compose, cli, commands) may import anything."""
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part in ALLOWED:
        imported = {name.split(".")[0] for name in our_imports(path)}
        assert imported - {part} <= ALLOWED[part]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_are_absolute(path: Path) -> None:
    relative = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_only_audio_touches_sound_files_and_only_tracking_knows_wandb() -> None:
    def importers(module: str) -> set[str]:
        return {
            path.relative_to(SOURCE).as_posix()
            for path in FILES
            for node in ast.walk(ast.parse(path.read_text()))
            if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == module for alias in node.names))
            or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == module)
        }

    assert importers("soundfile") == {"audio.py", "recording.py"}
    assert importers("wandb") == {"tracking.py"}


def test_config_imports_no_torch() -> None:
    """DVC imports it at every command."""
    for name in ("config.py", "schema.py", "schema_data.py", "schema_generator.py", "compose.py"):
        assert "torch" not in (SOURCE / name).read_text().replace("Imports no torch", "")


def test_stage_scripts_are_thin() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "stages").glob("*.py")}
    # No stage of the pipeline: what it knows of packages and voices, nothing else has to know.
    assert lengths.pop("gather_mini_speech.py") <= 265
    assert len(lengths) == 7
    assert max(lengths.values()) <= 45, lengths


def test_files_hold_one_noun() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 265} == {}


def test_every_configuration_key_is_read() -> None:
    """A key that no line of code names, as an attribute, a keyword or an argument, would be a knob without effect."""
    named: set[str] = set()
    for path in [*FILES, *(ROOT / "stages").glob("*.py")]:
        if path.name.startswith("schema"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.arg(arg=name):
                    named.add(name)
                case ast.Constant(value=str(text)):
                    named |= set(text.replace(".", " ").split())
    schemas = [*SCHEMAS.values(), *GENERATORS.values()]
    keys = {key.rpartition(".")[2] for schema in schemas for key in flat_keys(OmegaConf.structured(schema), "")}
    assert sorted(keys - named) == []


def flat_keys(node: object, prefix: str) -> set[str]:
    """Return the dotted names of all values in a configuration."""
    keys = set()
    for key in node:  # type: ignore[attr-defined]
        value = None if OmegaConf.is_missing(node, key) else node[key]  # type: ignore[index]
        keys |= flat_keys(value, f"{prefix}{key}.") if OmegaConf.is_dict(value) else {f"{prefix}{key}"}
    return keys
