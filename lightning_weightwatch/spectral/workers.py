"""Work shared among threads: in parts that may run side by side, within a bound on the memory.

numpy lets go of Python's lock within its products and solvers, so that threads with one BLAS thread
each fill the cores with many small matrices, which one call on many threads cannot.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Calls that wait in the hands of the threads, so that none idles until the next one is handed out.
_IN_HAND = 1


@dataclass(frozen=True)
class Call:
    """A part of some work, for a worker thread.

    Attributes:
        run: Does it.
        memory: Bytes that it takes meanwhile, at most.
    """

    run: Callable[[], Any]
    memory: int = 0


#: Work in parts: yields lists of calls that may run side by side, is sent the list of their
#: results (or gets their exception), and returns what it made of them.
Work = Generator[list[Call], list[Any], T]


def run_one(work: Work[T]) -> T:
    """Do some work on this thread."""
    try:
        calls = next(work)
        while True:
            try:
                results = [call.run() for call in calls]
            except Exception as error:  # the work decides what it means
                calls = work.throw(error)
            else:
                calls = work.send(results)
    except StopIteration as stop:
        result: T = stop.value
        return result


def run_all(
    works: Iterable[Work[T]],
    *,
    threads: int,
    memory: int | None = None,
    held: Sequence[int] | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[T]:
    """Do several works and return what each returns, in their order.

    What a work does between its calls runs on the calling thread; works begin in the given order,
    each only when the threads would else run out of calls.

    Args:
        works: What to do. Each handles the exceptions of its calls: one that it lets through ends
            everything.
        threads: With 1, all is done on the calling thread.
        memory: Bytes that works may hold and calls may take at the same time; what needs more runs
            alone. None: any.
        held: Bytes that each work holds from its beginning to its end, beside its calls.
        on_done: Called with the index of each work when it is done, on the calling thread.
    """
    if threads == 1:
        results = []
        for index, work in enumerate(works):
            results.append(run_one(work))
            if on_done is not None:
                on_done(index)
        return results
    crew: _Crew[T] = _Crew(threads, memory, held, on_done)
    return crew.run(works)


@dataclass(eq=False)
class _Begun(Generic[T]):
    """A work that has begun: the outcomes of its present calls, as far as they are known."""

    index: int
    work: Work[T]
    outcomes: list[Any] = field(default_factory=list)
    missing: int = 0
    error: Exception | None = None


class _Crew(Generic[T]):
    """Threads, what they do, and what waits for them."""

    def __init__(
        self,
        threads: int,
        memory: int | None,
        held: Sequence[int] | None,
        on_done: Callable[[int], None] | None,
    ) -> None:
        self._threads = threads
        self._at_once = threads + _IN_HAND
        self._memory = math.inf if memory is None else memory
        self._held_by = held
        self._held = 0
        self._largest = 0
        self._on_done = on_done
        self._results: dict[int, T] = {}
        self._begun = 0
        self._ready: deque[tuple[_Begun[T], int, Call]] = deque()
        self._running: dict[Future[Any], tuple[_Begun[T], int, Call]] = {}

    def run(self, works: Iterable[Work[T]]) -> list[T]:
        waiting = enumerate(works)
        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                while len(self._ready) + len(self._running) < self._at_once and self._room():
                    following = next(waiting, None)
                    if following is None:
                        break
                    self._begun += 1
                    self._held += self._size_of(following[0])
                    self._resume(_Begun(*following))
                while (call := self._next_call()) is not None:
                    self._running[pool.submit(call[2].run)] = call
                if not self._running:
                    return [self._results[index] for index in sorted(self._results)]
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    self._collect(future)

    def _size_of(self, index: int) -> int:
        """What a work holds."""
        held = self._held_by
        return held[index] if held is not None and index < len(held) else 0

    def _room(self) -> bool:
        """Whether the next work may begin: what it holds leaves room for a call, or it is alone."""
        if self._begun == len(self._results):
            return True
        taken = sum(call.memory for _, _, call in self._running.values())
        held = self._held + self._size_of(self._begun)
        return held + max(taken, self._largest) <= self._memory

    def _next_call(self) -> tuple[_Begun[T], int, Call] | None:
        """The first call that there is a thread and memory for, taken off the queue."""
        if len(self._running) >= self._at_once:
            return None
        taken = self._held + sum(call.memory for _, _, call in self._running.values())
        for position, (_, _, call) in enumerate(self._ready):
            if not self._running or taken + call.memory <= self._memory:
                self._ready.rotate(-position)
                chosen = self._ready.popleft()
                self._ready.rotate(position)
                return chosen
        return None

    def _collect(self, future: "Future[Any]") -> None:
        begun, position, _ = self._running.pop(future)
        error = future.exception()
        if error is None:
            begun.outcomes[position] = future.result()
        elif isinstance(error, Exception):
            begun.error = begun.error or error
        else:
            raise error
        begun.missing -= 1
        if begun.missing == 0:
            self._resume(begun)

    def _resume(self, begun: _Begun[T]) -> None:
        """Let a work go on, up to its next calls; these come before those of later works."""
        work = begun.work
        try:
            calls = next(work) if not begun.outcomes else self._hand_over(begun)
            while not calls:
                calls = work.send([])
        except StopIteration as stop:
            self._results[begun.index] = stop.value
            self._held -= self._size_of(begun.index)
            if self._on_done is not None:
                self._on_done(begun.index)
            return
        begun.outcomes, begun.missing, begun.error = [None] * len(calls), len(calls), None
        self._largest = max(self._largest, *(call.memory for call in calls))
        entries = [(begun, position, call) for position, call in enumerate(calls)]
        self._ready.extendleft(reversed(entries))

    def _hand_over(self, begun: _Begun[T]) -> list[Call]:
        outcomes, begun.outcomes = begun.outcomes, []
        if begun.error is not None:
            return begun.work.throw(begun.error)
        return begun.work.send(outcomes)
