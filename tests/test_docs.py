"""The documents: their links lead somewhere, and both languages show the same commands."""

import re
from pathlib import Path

import pytest

from miipher2.cli.main import main
from miipher2.config.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "exp/README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_japanese_readme_has_the_same_commands() -> None:
    english, japanese = (ROOT / name for name in ("README.md", "README.ja.md"))
    assert commands(japanese) == commands(english)


def test_every_command_and_option_in_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """`miipher2 <command> --help` names every option that a page gives to that command."""
    helps: dict[tuple[str, ...], str] = {}
    wrong = []
    for page in PAGES:
        for words in re.findall(r"uv run (?:--extra \w+ )*miipher2 ([^`\n#]+)", page.read_text()):
            command = tuple(re.match(r"(?:checkpoint )?[a-z]+", words)[0].split())
            if command not in helps:
                with pytest.raises(SystemExit):
                    main([*command, "--help"])
                helps[command] = capsys.readouterr().out
            wrong += [(page.name, word) for word in re.findall(r"--[a-z-]+", words) if word not in helps[command]]
    assert len(helps) > 8
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_in_the_pages_exist(page: Path) -> None:
    paths = re.findall(r"`((?:src|stages|configs|tests|benchmarks|models/mini)/[\w./-]+)`", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def commands(page: Path) -> list[str]:
    """Return the commands in a page's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
