"""Works end as on one thread, within their memory, and leave no thread behind."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lightning_weightwatch.spectral.workers import Call, Work, run_all, run_one

THREADS = list(range(1, 9))


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Gauge:
    """What runs at the same time: how many calls, and of how many bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: list[int] = []
        self.most_calls = 0
        self.seen: list[tuple[int, ...]] = []

    def call(self, memory: int, seconds: float = 0.0, result: Any = None) -> Call:
        return Call(partial(self._run, memory, seconds, result), memory)

    def _run(self, memory: int, seconds: float, result: Any) -> Any:
        with self._lock:
            self._present.append(memory)
            self.seen.append(tuple(self._present))
            self.most_calls = max(self.most_calls, len(self._present))
        time.sleep(seconds)
        with self._lock:
            self._present.remove(memory)
        return result


def fails(error: BaseException) -> Any:
    raise error


def slowly(result: float) -> float:
    time.sleep(0.0002)
    return result


def summed(*rounds: list[int]) -> Work[list[int]]:
    """A work of several rounds of calls, which returns all of their results."""
    results: list[int] = []
    for numbers in rounds:
        results += yield [Call(partial(int, number)) for number in numbers]
    return results


@pytest.mark.parametrize("threads", THREADS)
def test_results_are_in_the_order_of_works_and_calls(threads: int) -> None:
    works = [summed(list(range(i)), [], [100 + i] * (i % 3), [], list(range(5))) for i in range(20)]
    expected = [[*range(i), *[100 + i] * (i % 3), *range(5)] for i in range(20)]
    assert run_all(works, threads=threads) == expected


@pytest.mark.parametrize("threads", THREADS)
def test_works_without_calls_and_no_works_end_too(threads: int) -> None:
    done: list[int] = []
    assert run_all((summed() for _ in range(5)), threads=threads, on_done=done.append) == [[]] * 5
    assert done == list(range(5))
    assert run_all([], threads=threads) == []
    assert run_all([summed([], []), summed([1])], threads=threads) == [[], [1]]


def test_one_work_alone_is_done_on_its_thread() -> None:
    def where() -> Work[list[int]]:
        return (yield [Call(threading.get_ident), Call(threading.get_ident)])

    assert run_one(where()) == [threading.get_ident()] * 2
    assert run_all([where()], threads=1) == [[threading.get_ident()] * 2]
    assert threading.get_ident() not in run_all([where()], threads=2)[0]


@pytest.mark.parametrize("threads", THREADS)
def test_an_exception_reaches_its_work_and_no_other(threads: int) -> None:
    def recovers(number: int) -> Work[str]:
        try:
            yield [Call(partial(int, 1)), Call(partial(fails, ValueError(number))), Call(int)]
        except ValueError as error:
            (again,) = yield [Call(lambda: "again")]
            return f"{again} {error.args[0]}"
        return "no exception"

    works: list[Work[Any]] = [recovers(i) if i % 2 else summed([i, i]) for i in range(10)]
    found = run_all(works, threads=threads)
    assert found == [f"again {i}" if i % 2 else [i, i] for i in range(10)]


@pytest.mark.parametrize("threads", THREADS)
def test_an_exception_that_a_work_lets_through_ends_everything(threads: int) -> None:
    begun: list[int] = []

    def work(number: int) -> Work[None]:
        begun.append(number)
        yield [Call(partial(time.sleep, 0.001))]
        yield [Call(partial(fails, KeyError("lost")) if number == 3 else int)]

    with pytest.raises(KeyError, match="lost"):
        run_all((work(i) for i in range(1000)), threads=threads)
    assert len(begun) < 100


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_is_not_for_the_work_to_catch(threads: int, error: BaseException) -> None:
    def work() -> Work[str]:
        try:
            yield [Call(int), Call(partial(fails, error)), Call(int)]
        except Exception:
            return "caught"
        return "passed"

    with pytest.raises(type(error)):
        run_all([work() for _ in range(4)], threads=threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_work_raises_between_its_calls_ends_everything(threads: int) -> None:
    def work() -> Work[None]:
        yield [Call(int)]
        raise LookupError("between")

    with pytest.raises(LookupError, match="between"):
        run_all([summed([1]), work(), summed([2])], threads=threads)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_calls_stay_within_the_memory_and_a_larger_one_runs_alone(threads: int) -> None:
    gauge = Gauge()
    sizes = random.Random(threads).choices([10, 30, 60, 100, 250], k=60)

    def work(number: int) -> Work[list[Any]]:
        calls = sizes[3 * number : 3 * number + 3]
        return (yield [gauge.call(size, 0.001, size) for size in calls])

    found = run_all([work(i) for i in range(20)], threads=threads, memory=100)
    assert found == [sizes[3 * i : 3 * i + 3] for i in range(20)]
    assert all(sum(present) <= 100 or len(present) == 1 for present in gauge.seen)
    assert (250,) in gauge.seen
    assert 1 < gauge.most_calls <= threads


@pytest.mark.parametrize("threads", [2, 4])
def test_the_threads_are_used_and_no_more_than_those(threads: int) -> None:
    gauge = Gauge()

    def work() -> Work[list[Any]]:
        return (yield [gauge.call(0, 0.01)])

    run_all([work() for _ in range(6 * threads)], threads=threads)
    assert gauge.most_calls == threads


def test_the_calls_of_one_work_run_side_by_side() -> None:
    both = threading.Barrier(3, timeout=10)

    def work() -> Work[list[Any]]:
        return (yield [Call(both.wait) for _ in range(3)])

    assert sorted(run_all([work()], threads=3)[0]) == [0, 1, 2]


@pytest.mark.parametrize("threads", THREADS)
def test_a_work_begins_only_when_a_thread_would_soon_have_nothing_to_do(threads: int) -> None:
    unfinished: set[int] = set()
    most = 0

    def work(number: int) -> Work[None]:
        nonlocal most
        unfinished.add(number)
        most = max(most, len(unfinished))
        yield [Call(partial(time.sleep, 0.0005)) for _ in range(number % 4)]
        yield [Call(partial(time.sleep, 0.0005))]
        unfinished.remove(number)

    run_all((work(i) for i in range(40)), threads=threads, memory=1000)
    assert most <= (threads + 1 if threads > 1 else 1)  # one call is handed out ahead
    assert not unfinished


def test_a_work_of_many_calls_begins_alone() -> None:
    begun: list[int] = []
    seen: list[int] = []

    def work(number: int) -> Work[None]:
        begun.append(number)
        yield [Call(lambda: seen.append(len(begun))) for _ in range(4)]

    run_all([work(0), work(1)], threads=2)
    assert seen[0] == 1


@pytest.mark.parametrize("threads", THREADS)
def test_works_begin_in_their_order_and_on_done_tells_each_once(threads: int) -> None:
    begun, done, where = [], [], set()

    def work(number: int) -> Work[None]:
        begun.append(number)
        yield [Call(partial(time.sleep, random.Random(number).random() / 1000))]

    def on_done(index: int) -> None:
        done.append(index)
        where.add(threading.get_ident())

    run_all((work(i) for i in range(30)), threads=threads, on_done=on_done)
    assert begun == list(range(30))
    assert sorted(done) == list(range(30))
    assert where == {threading.get_ident()}


def test_the_first_error_of_several_reaches_the_work_once_all_calls_have_ended() -> None:
    gauge = Gauge()

    def work() -> Work[int]:
        try:
            yield [Call(partial(fails, ValueError())), gauge.call(1, 0.02), gauge.call(1, 0.02)]
        except ValueError:
            return gauge.most_calls
        return -1

    assert run_all([work()], threads=3) == [2]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("memory", [None, 0, 50])
def test_random_works_end_as_on_one_thread(threads: int, memory: int | None) -> None:
    def part(rng: random.Random) -> Callable[[], float]:
        value = rng.random()
        if value < 0.1:
            return partial(fails, ValueError(value))
        if value < 0.15:
            return lambda: slowly(value)
        return lambda: value

    def inner(rng: random.Random) -> Work[float]:
        calls = [Call(part(rng), rng.randrange(100)) for _ in range(rng.randrange(5))]
        return sum((yield calls))

    def work(number: int) -> Work[list[float]]:
        rng, found = random.Random(number), []
        for _ in range(rng.randrange(5)):
            try:
                found.append((yield from inner(rng)))
            except ValueError:
                found.append(-1.0)
        return found

    expected = [run_one(work(i)) for i in range(200)]
    assert run_all((work(i) for i in range(200)), threads=threads, memory=memory) == expected


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_what_works_hold_counts_against_the_bound(threads: int) -> None:
    lock = threading.Lock()
    now = most = 0

    def change(by: int) -> None:
        nonlocal now, most
        with lock:
            now += by
            most = max(most, now)

    def call(size: int) -> None:
        change(size)
        time.sleep(0.0005)
        change(-size)

    def work(index: int) -> Work[int]:
        change(held[index])
        yield [Call(partial(call, 30), 30), Call(partial(call, 20), 20)]
        yield [Call(partial(call, 10), 10)]
        change(-held[index])
        return index

    held = [random.Random(index).choice([0, 10, 40]) for index in range(60)]
    works = (work(index) for index in range(60))
    assert run_all(works, threads=threads, memory=100, held=held) == list(range(60))
    assert now == 0
    assert 50 < most <= 100


def test_a_work_that_holds_more_than_the_bound_is_done_all_the_same() -> None:
    def work(index: int) -> Work[int]:
        yield [Call(lambda: None, 70)]
        return index

    found = run_all((work(i) for i in range(9)), threads=3, memory=50, held=[80] * 9)
    assert found == list(range(9))
