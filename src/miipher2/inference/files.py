"""The tasks of a job: a file, a folder or a list in, targets out, in a fixed order, all of them or one shard."""

import codecs
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miipher2.audio.files import SOUND_SUFFIXES, find_sound_files
from miipher2.audio.stream import FORMATS

LIST_SUFFIXES = (".txt", ".lst")


@dataclass(frozen=True)
class Task:
    """A recording and where its restoration goes; `name` is the target's, relative to the folder."""

    source: Path
    target: Path
    name: str


@dataclass(frozen=True)
class Naming:
    """How restored files are named.

    Args:
        format: "wav", "flac" or "ogg"; None keeps WAV and FLAC and turns anything else into WAV.
        suffix: put after the stem: with "_restored", a.wav becomes a_restored.wav.
    """

    format: str | None = None
    suffix: str = ""

    def name(self, source: Path) -> str:
        """Return the restored file's name."""
        kept = source.suffix if source.suffix.lower() in (".wav", ".flac") else ".wav"
        return f"{source.stem}{self.suffix}{kept if self.format is None else f'.{self.format}'}"

    def full_name(self, source: Path) -> str:
        """Return a name that tells a.mp3 from a.wav: a.mp3.wav."""
        return f"{source.name}{self.suffix}{Path(self.name(source)).suffix}"


@dataclass(frozen=True)
class Shard:
    """One of `count` parts; a recording's part follows from its name alone."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard for a text such as 2/8.

        Raises:
            ValueError: the text is not i/n with 1 <= i <= n.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"--shard {text}: should be i/n with i from 1 to n, such as 2/8")
        return cls(int(number), int(count))

    def contains(self, task: Task) -> bool:
        """Return whether the task belongs to this shard."""
        return int(hashlib.sha256(os.fsencode(task.name)).hexdigest(), 16) % self.count == self.number - 1


def find_tasks(
    source: Path, target: Path, naming: Naming | None = None, report: Callable[[str], object] = lambda line: None
) -> list[Task]:
    """Return the tasks of a file, a folder or a list, in order.

    Args:
        report: called with a line on the files that were passed over, if any were.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is nothing to restore, or the target does not fit.
    """
    naming = naming or Naming()
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file, folder or list")
    if not (source.is_file() or source.is_dir()):
        raise ValueError(f"{source}: should be a file or a folder, not a pipe: a recording is read twice")
    if not is_folder_job(source):
        return [_single_task(source, target, naming)]
    if target.is_file() or target.resolve() == source.resolve():
        raise ValueError(f"{target}: should be another folder than {source}, or a new one")
    if source.is_dir():
        found = find_sound_files(source, exclude=target)  # OUT inside IN holds what an earlier run restored
        paths = found.paths
        report(found.passed_over_line(source))
        folders = [path.relative_to(source).parent for path in paths]
    else:
        paths = _read_list(source)
        shared = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
        folders = [path.absolute().parent.relative_to(shared) for path in paths]
    if not paths:
        raise ValueError(f"{source}: holds no recordings ({', '.join(SOUND_SUFFIXES)})")
    names = [(folder / naming.name(path)).as_posix() for path, folder in zip(paths, folders, strict=True)]
    counts = Counter(names)
    tasks: dict[str, Task] = {}
    for path, folder, name in zip(paths, folders, names, strict=True):
        if counts[name] > 1 and path.suffix != Path(name).suffix:
            name = (folder / naming.full_name(path)).as_posix()
        if name in tasks:
            raise ValueError(f"{tasks[name].source} and {path} would both become {target / name}; rename one")
        tasks[name] = Task(path, target / name, name)
    return list(tasks.values())


def is_folder_job(source: Path) -> bool:
    """Return whether the job fills a folder: its source is a folder or a list."""
    return source.is_dir() or source.suffix.lower() in LIST_SUFFIXES


def _single_task(source: Path, target: Path, naming: Naming) -> Task:
    path = target / naming.name(source) if target.is_dir() else target
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{target}: should end in .wav, .flac or .ogg, or be an existing folder")
    if path.resolve() == source.resolve():
        raise ValueError(f"{source}: would be replaced by its own restoration; OUT should be another file")
    return Task(source, path, path.name)


def _read_list(path: Path) -> list[Path]:
    """Return the recordings of a list, one on each line, relative to the list's own folder.

    Names need not be UTF-8; a byte-order mark and repeated lines are ignored.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        raise ValueError(f"{path}: is not text, since it holds zero bytes; should be a list with a path on each line")
    lines = [line.strip() for line in content.splitlines()]
    names = [path.parent / os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]
    return list(dict.fromkeys(names))
