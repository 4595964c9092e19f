"""A folder job spread over a Ray cluster that shares a file system.

Plain actors and not Ray Data: what is handed out are names of files, and what comes back is an outcome. Ray Data would
move rows of audio through its object store and batch them anew, while a restorer batches windows and streams long files
itself; and its checkpoints would stand beside the journal, which must decide alone what is finished.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from miipher2.inference.batch_job import Job, Outcome
from miipher2.inference.journal import Journal, Task
from miipher2.inference.lineage import made_with
from miipher2.inference.restorer import Restorer

TASKS_AT_ONCE = 16  # handed to an actor together, so that short recordings share batches
RESTARTS = 3  # of an actor that dies, with the tasks it had; the journal spares what it had finished


class Actor:
    """One restorer on a node, with its models loaded once and a journal of its own."""

    def __init__(self, make_restorer: Callable[[], Restorer], folder: str, workers: int) -> None:
        self._restorer, self._workers = make_restorer(), workers
        self._journal = Journal(Path(folder), made_with(self._restorer))

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Do some tasks."""
        self._journal.reread()
        return Job(self._restorer, self._journal, workers=self._workers).run(tasks)


def run_on_ray(
    tasks: Sequence[Task],
    folder: Path,
    *,
    address: str,
    actors: int,
    workers: int,
    make_restorer: Callable[[], Restorer],
    on_progress: Callable[[Task, float, float], None],
) -> Outcome:
    """Do all tasks on a cluster and return what became of them.

    Args:
        address: of the cluster; "local" starts one on this machine.
        actors: how many restorers; each takes one GPU where `make_restorer` asks for one.

    Raises:
        ray.exceptions.RayActorError: an actor died more often than it is restarted.
    """
    ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    try:
        uses_gpu = str(getattr(make_restorer, "keywords", {}).get("device", "cpu")).startswith("cuda")
        resources: dict[str, Any] = {"num_gpus": 1} if uses_gpu else {"num_cpus": 1}
        remote = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **resources)(Actor)
        pool = [remote.remote(make_restorer, str(folder), workers) for _ in range(actors)]
        groups = [
            [Task(task.source.absolute(), task.target.absolute(), task.name) for task in tasks[start:][:TASKS_AT_ONCE]]
            for start in range(0, len(tasks), TASKS_AT_ONCE)
        ]
        by_name = {task.name: task for task in tasks}
        total = Outcome()
        busy: dict[Any, Any] = {}
        while groups or busy:
            while groups and pool:
                actor = pool.pop()
                busy[actor.run.remote(groups.pop(0))] = actor
            done, _ = ray.wait(list(busy))
            outcome: Outcome = ray.get(done[0])
            pool.append(busy.pop(done[0]))
            total.add(outcome)
            finished = [*outcome.restored, *outcome.skipped, *(task for task, _ in outcome.failed)]
            for number, task in enumerate(finished):
                on_progress(by_name[task.name], 1.0, 0.0 if number else outcome.seconds)
        return total
    finally:
        ray.shutdown()
