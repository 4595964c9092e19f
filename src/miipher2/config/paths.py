"""Where the repository is, names that may be a folder in it, and which paths may be written, replaced or removed.

A run's name is one or more plain file names joined by `/`; the run's folder is `exp/<name>`, which holds this run and
no other. Every other output path may be anywhere, but for what `check_output` lists.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXP = "exp"
NOT_RUNS = ("readme.md", "report", "results")  # in exp/
HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")  # of weights on the hub
MAX_NAME_BYTES = 200  # `.replaced/<name>.<date>-<time>` has to fit a file name too
# A run's folder has one of these from its first moment on; what is in the folders is no run of its own.
RUN_FILES, RUN_FOLDERS = (".lock", "config.yaml", "history.csv", "checkpoint_*.pt"), ("published", "wandb")
# What the repository consists of. models/ is left out: weights are exported there.
PROTECTED = (
    *(".ci", ".dvc", ".git", ".github", ".venv", "benchmarks", "configs", "data/embedded", "docs", "src", "stages"),
    *("tests", f"{EXP}/report", f"{EXP}/results"),
)


def folder_or_hub_name(name: str, root: Path = ROOT) -> Path | str:
    """Return the local folder that an encoder's name refers to, taken from `root`; any other name as it is."""
    return root / name if (root / name).is_dir() else name


def is_hub_name(name: str, root: Path = Path()) -> bool:
    """Return whether a name of weights means a repository on the Hugging Face hub: no folder, and `owner/name`."""
    return HUB_NAME.fullmatch(name) is not None and not (root / name).is_dir()


def real_path(path: Path) -> Path:
    """Return an absolute path without links; unlike `Path.resolve`, a link to itself is no error."""
    return Path(os.path.realpath(path))


def find_name_problem(name: str) -> str | None:
    """Return what a run's name should be, or None where it is that: a fresh run sets all of `exp/<name>` aside."""
    parts = name.split("/")
    if not all(part.isprintable() and part == part.strip() and "\\" not in part for part in parts):
        return "should be plain file names joined by /, without backslash, line break or space at an end"
    if any(not part or part.startswith(".") for part in parts):
        return "should be one or more file names joined by /, none of them empty or with a leading dot"
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        return f"should have at most {MAX_NAME_BYTES} bytes between two /"
    if parts[0].casefold() in NOT_RUNS or not {part.casefold() for part in parts}.isdisjoint(RUN_FOLDERS):
        return (
            f"is kept for other files; should not begin with {', '.join(NOT_RUNS)} or contain {', '.join(RUN_FOLDERS)}"
        )
    return None


def find_run_problem(name: str) -> str | None:
    """Return why `exp/<name>` cannot be a run's folder, or None where it can: it is new, or it holds this run alone."""
    folder = ROOT / EXP / name
    for parent in folder.parents[: name.count("/")]:
        if is_run(parent):
            return f"lies in the run {parent.relative_to(ROOT)}; give this run another name"
    if not folder.exists():
        return None
    if not folder.is_dir():
        return f"{folder.relative_to(ROOT)} is no folder; give this run another name"
    if inner := next(runs_below(folder), None):
        return f"{folder.relative_to(ROOT)} holds the run {inner.relative_to(ROOT)}; give this run another name"
    visible = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if visible and not is_run(folder):
        return f"{folder.relative_to(ROOT)} holds {visible[0]} and no run; give this run another name"
    return None


def is_run(folder: Path) -> bool:
    """Return whether training has written into a folder, or DVC has put published results there."""
    return any(next(folder.glob(name), None) for name in RUN_FILES) or (folder / RUN_FOLDERS[0]).is_dir()


def check_output(
    path: Path,
    inputs: Iterable[Path] = (),
    *,
    own: Sequence[str] | None = None,
    label: str | None = None,
    root: Path | None = None,
) -> None:
    """Check that a command may write a file or folder at `path`.

    It may not be the repository or contain it; be, contain or lie in one of the folders that the repository consists of
    (`PROTECTED`); lie in a run's folder; or be or contain an input.

    Args:
        inputs: what the command reads.
        own: for a folder that is replaced as a whole, patterns of what the command itself writes there; anything else
            in it is the user's.
        label: how the message begins; by default with the path.

    Raises:
        ValueError: it may not; nothing was touched.
    """
    if problem := _find_output_problem(path, inputs, own, (root or ROOT).resolve()):
        raise ValueError(f"{label or path}: {problem}")


def check_replaces_nothing(folder: Path, names: Iterable[str], mark: str) -> None:
    """Check that the files of a command that a folder holds are its own, which its `mark` in the folder shows.

    Raises:
        ValueError: one of them is the user's.
    """
    if not (folder / mark).exists() and (found := next((name for name in names if (folder / name).exists()), None)):
        raise ValueError(f"{folder / found}: would be replaced, and is not of this command; should be another folder")


def check_keeps_inputs(jobs: Iterable[tuple[Path, Path]]) -> None:
    """Check that no output replaces an input, its own or another's.

    Args:
        jobs: pairs of input and output.

    Raises:
        ValueError: one does; names both.
    """
    pairs = list(jobs)
    existing = [target for _, target in pairs if target.exists()]
    sources = {real_path(source): source for source, _ in pairs} if existing else {}
    for target in existing:
        if (source := sources.get(real_path(target))) is not None:
            raise ValueError(f"{source}: would be replaced by {target}; OUT should be another folder")


def check_distinct(jobs: Iterable[tuple[Path, Path]]) -> None:
    """Check that no two outputs become one file where the file system ignores case.

    Args:
        jobs: pairs of input and output.

    Raises:
        ValueError: two do; names their inputs.
    """
    first: dict[str, tuple[Path, Path]] = {}
    for source, target in jobs:
        other, output = first.setdefault(str(target).casefold(), (source, target))
        if output != target and ignores_case(target.parent):
            raise ValueError(
                f"{other} and {source} would both become {output}, whose file system ignores case; rename one"
            )


def ignores_case(folder: Path) -> bool:
    """Return whether a folder, or the one that it would be created in, takes A and a for one name."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    with tempfile.NamedTemporaryFile(prefix=".miipher2-", dir=existing) as file:
        return Path(file.name).with_name(Path(file.name).name.upper()).exists()


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the runs in the folders below a folder, of whatever depth, sorted."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith(".") and path.name not in RUN_FOLDERS:
            if is_run(path):
                yield path
            elif not path.is_symlink():
                yield from runs_below(path)


def _find_output_problem(path: Path, inputs: Iterable[Path], own: Sequence[str] | None, root: Path) -> str | None:
    """Return why a command may not write at `path`, or None where it may."""
    real = real_path(path)
    if real == root or real in root.parents:
        return f"{'is' if real == root else 'contains'} the repository {root}; should be a folder of its own"
    for name in PROTECTED:
        if real in (root / name).parents:
            return f"contains {name}, a part of the repository; should be another folder"
        if root / name in (real, *real.parents):
            return f"is in {name}, a part of the repository; should be elsewhere"
    for each in map(real_path, inputs):
        if real in (each, *each.parents):
            return f"{'is' if real == each else 'contains'} the input {each}; should be another path"
    for folder in {each for start in (real, Path(os.path.abspath(path))) for each in (start, *start.parents)}:  # noqa: PTH100 - links
        if root / EXP in folder.parents and is_run(folder):
            return f"is in the run {folder.relative_to(root)}, which training sets aside; should be elsewhere"
    if own is None or not path.exists():
        return None
    if not path.is_dir():
        return "is a file; should be a folder"
    others = sorted(each.name for each in path.iterdir() if not any(fnmatch(each.name, pattern) for pattern in own))
    return f"holds {others[0]}, which would be lost; should be a new folder" if others else None
