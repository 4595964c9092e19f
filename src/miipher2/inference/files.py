"""What a job is to do: a file, a folder or a list in, targets out, in a fixed order, whole or a shard of it."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from miipher2.audio.files import SOUND_SUFFIXES, find_sound_files
from miipher2.audio.stream import FORMATS
from miipher2.inference.journal import Task

LIST_SUFFIXES = (".txt", ".lst")


@dataclass(frozen=True)
class Naming:
    """How a restored file is called.

    Args:
        format: "wav", "flac" or "ogg"; None keeps WAV and FLAC and makes WAV of anything else.
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
    """One of `count` parts; a recording's part follows from its name alone, whatever else there is.

    Raises:
        ValueError: the text is not i/n with 1 <= i <= n.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that a text such as 2/8 means."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"--shard {text}: should be i/n with i from 1 to n, such as 2/8")
        return cls(int(number), int(count))

    def holds(self, task: Task) -> bool:
        """Say whether the task is this shard's."""
        return int(hashlib.sha256(os.fsencode(task.name)).hexdigest(), 16) % self.count == self.number - 1


def find_tasks(source: Path, target: Path, naming: Naming | None = None) -> list[Task]:
    """Return what is read and where it goes, in order.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is nothing to restore, or the target cannot take it.
    """
    naming = naming or Naming()
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file, folder or list")
    if not (source.is_file() or source.is_dir()):
        raise ValueError(
            f"{source}: is neither a file nor a folder; a recording is read twice, so that no pipe will do"
        )
    if source.is_file() and source.suffix.lower() not in LIST_SUFFIXES:
        return [_single(source, target, naming)]
    if target.is_file() or target.resolve() == source.resolve():
        raise ValueError(f"{target}: should be another folder than {source}, or a new one")
    if source.is_dir():
        found = find_sound_files(source, exclude=target)  # OUT inside IN: the results of an earlier run
        names = [path.relative_to(source).parent for path in found]
    else:
        found = _listed(source)
        shared = Path(os.path.commonpath([path.absolute().parent for path in found])) if found else Path()
        names = [path.absolute().parent.relative_to(shared) for path in found]
    if not found:
        raise ValueError(f"{source}: holds no recordings ({', '.join(sorted(SOUND_SUFFIXES))})")
    wanted = [(folder / naming.name(path)).as_posix() for path, folder in zip(found, names, strict=True)]
    shared_names = {name for name, count in Counter(wanted).items() if count > 1}
    tasks: dict[str, Task] = {}
    for path, folder, name in zip(found, names, wanted, strict=True):
        if name in shared_names and path.suffix != Path(name).suffix:
            name = (folder / naming.full_name(path)).as_posix()
        if name in tasks:
            raise ValueError(f"{tasks[name].source} and {path} would both become {target / name}; rename one")
        tasks[name] = Task(path, target / name, name)
    return list(tasks.values())


def is_folder_job(source: Path) -> bool:
    """Say whether a folder of restored recordings comes of it."""
    return source.is_dir() or source.suffix.lower() in LIST_SUFFIXES


def _single(source: Path, target: Path, naming: Naming) -> Task:
    one = target / naming.name(source) if target.is_dir() else target
    if one.suffix.lower() not in FORMATS:
        raise ValueError(f"{target}: should end in .wav, .flac or .ogg, or be a folder that exists")
    if one.resolve() == source.resolve():
        raise ValueError(f"{source}: would be replaced by its own restoration; name another OUT")
    return Task(source, one, one.name)


def _listed(path: Path) -> list[Path]:
    """Return the recordings that a list names, one a line, from the list's own folder."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no list of recordings ({error}); should be text, a path on each line") from error
    return [path.parent / line.strip() for line in lines if line.strip() and not line.startswith("#")]
