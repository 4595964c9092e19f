"""A folder job on a Ray cluster that shares a file system.

Plain actors and not Ray Data: only file names go out, and only outcomes come back. Ray Data would move rows of audio
through its object store and batch them again, while a restorer batches windows and streams long files itself; and its
checkpoints would compete with the journal, which alone decides what is finished.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from miipher2.inference.batch_job import Job, Outcome, Progress
from miipher2.inference.files import Task
from miipher2.inference.journal import Journal, recipe_of
from miipher2.inference.restorer import Restorer

TASKS_PER_CALL = 16  # so that short recordings share batches
MAX_RESTARTS = 3  # of an actor that dies, with its tasks; the journal skips what it had finished


class Actor:
    """One restorer on a node, with its models loaded once and a journal of its own."""

    def __init__(self, make_restorer: Callable[[], Restorer], folder: str, workers: int) -> None:
        self._restorer, self._workers = make_restorer(), workers
        self._journal = Journal(Path(folder), recipe_of(self._restorer))

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Do some tasks."""
        self._journal.reload()
        return Job(self._restorer, self._journal, workers=self._workers).run(tasks)


def run_on_ray(
    tasks: Sequence[Task],
    folder: Path,
    *,
    address: str,
    actors: int,
    workers: int,
    make_restorer: Callable[[], Restorer],
    uses_gpu: bool,
    on_progress: Progress,
) -> Outcome:
    """Do all tasks on a cluster and return their results.

    Args:
        address: of the cluster; "local" starts one on this machine.
        actors: how many restorers.
        uses_gpu: whether each actor takes a GPU.

    Raises:
        ray.exceptions.RayActorError: an actor died more often than it is restarted.
    """
    ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    try:
        resources: dict[str, Any] = {"num_gpus": 1} if uses_gpu else {"num_cpus": 1}
        remote = ray.remote(max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS, **resources)(Actor)
        idle = [remote.remote(make_restorer, str(folder), workers) for _ in range(actors)]
        groups = [
            [Task(task.source.absolute(), task.target.absolute(), task.name) for task in tasks[start:][:TASKS_PER_CALL]]
            for start in range(0, len(tasks), TASKS_PER_CALL)
        ]
        by_name = {task.name: task for task in tasks}
        total = Outcome()
        busy: dict[Any, Any] = {}
        while groups or busy:
            while groups and idle:
                actor = idle.pop()
                busy[actor.run.remote(groups.pop(0))] = actor
            done, _ = ray.wait(list(busy))
            outcome: Outcome = ray.get(done[0])
            idle.append(busy.pop(done[0]))
            total.add(outcome)
            finished = [*outcome.restored, *outcome.skipped, *(task for task, _ in outcome.failed)]
            for number, task in enumerate(finished):
                on_progress(by_name[task.name], 1.0, 0.0 if number else outcome.seconds)
        return total
    finally:
        ray.shutdown()
