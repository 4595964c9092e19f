"""The documents: their links lead somewhere, and both languages show the same commands."""

import re
from pathlib import Path

import pytest

from miipher2.config.paths import ROOT

PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_japanese_readme_has_the_same_commands() -> None:
    english, japanese = (ROOT / name for name in ("README.md", "README.ja.md"))
    assert commands(japanese) == commands(english)


def test_the_tree_names_every_module() -> None:
    text = (ROOT / "README.md").read_text()
    modules = {path.name for path in (ROOT / "src/miipher2").rglob("*.py") if "commands" not in path.parts}
    assert sorted(name for name in modules - {"__init__.py"} if name not in text) == []


def commands(page: Path) -> list[str]:
    """Return the commands in a page's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
