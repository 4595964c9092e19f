"""Work beside the networks: an iterator that runs ahead in a thread, and results in order from a pool."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Yield `items`, of which a thread makes up to `depth` beforehand; what it raises is raised here."""
    waiting: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    is_left = threading.Event()

    def put(kind: str, value: object) -> None:
        while not is_left.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if is_left.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the items are wanted
            put("error", error)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        is_left.set()
        thread.join()


def in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[tuple[Item, "Future[Result]"]]:
    """Yield each item and the future of its result, in order, with up to `depth` of them under way."""
    under_way: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        under_way.append((item, executor.submit(function, item)))
        if len(under_way) > depth:
            yield under_way.popleft()
    while under_way:
        yield under_way.popleft()
