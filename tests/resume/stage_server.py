"""Imports what the stages of a workspace need, once, and then forks a process for each requested run.

One JSON per line on standard input, one answer per line on standard output. It starts no threads, so forking is safe.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def main(root: Path) -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, str(root / "src"))
    import wandb  # noqa: F401

    ended: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "argv" in question:
            answer: Any = fork(root, question)
        elif "wait" in question:
            answer = wait(question["wait"], ended, block=True)
        else:
            answer = wait(question["poll"], ended, block=False)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def fork(root: Path, question: dict[str, Any]) -> int:
    """Start a script in a child process, in a session of its own."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.chdir(root)
    os.environ.update(question["environment"])
    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = question["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit(0)


def wait(pid: int, ended: dict[int, int], *, block: bool) -> int | None:
    """Return a child's exit code, negative for a signal; None while it runs."""
    while pid not in ended:
        child, status = os.waitpid(pid, os.WNOHANG)
        if child:
            ended[pid] = os.waitstatus_to_exitcode(status)
        elif not block:
            return None
        else:
            time.sleep(0.001)
    return ended[pid]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
