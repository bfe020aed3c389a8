"""Which tasks are over: Ray says so of each as it lands, so that nobody asks about all the others."""

import queue
from concurrent.futures import Future
from typing import Any

from advdmd_ray.controller.protocols import Task
from advdmd_ray.runtime.calls import landed


class Landing:
    """Watches tasks whose tickets are references of Ray. A task is over when all of them landed, or one has failed."""

    def __init__(self) -> None:
        # Filled by Ray's own thread. What is in it is of a task that is over already, or one step nearer to it.
        self._landed: queue.SimpleQueue[tuple[Task, Future[Any]]] = queue.SimpleQueue()
        self._missing: dict[Task, int] = {}
        self._futures: dict[Task, tuple[Future[Any], ...]] = {}

    def watch(self, task: Task) -> Task:
        """Begins to; returns the task."""
        futures = tuple(ticket.future() for ticket in task.tickets)
        self._missing[task], self._futures[task] = len(futures), futures
        for future in futures:
            future.add_done_callback(lambda future: self._landed.put((task, future)))
        return task

    def wait(self, timeout_s: float) -> list[Task]:
        """The tasks that are over, each once, waiting at most `timeout_s` for the first ticket to land."""
        over: list[Task] = []
        try:
            over += self._landing(*self._landed.get(timeout=timeout_s))
            while True:
                over += self._landing(*self._landed.get_nowait())
        except queue.Empty:
            return over

    def _landing(self, task: Task, future: Future[Any]) -> tuple[Task, ...]:
        """The task, if this makes it over."""
        if task not in self._missing:
            return ()
        self._missing[task] -= 1
        if self._missing[task] and future.exception() is None:
            return ()
        del self._missing[task]
        return (task,)

    def values(self, task: Task) -> list[Any]:
        """What the tickets of a task that is over came to, in their order; it is forgotten then.

        Raises:
            WorkerLostError: and whatever else `calls.answer` raises, if one of them has failed.
        """
        return [landed(future, task.worker) for future in self._futures.pop(task) if future.done()]
