"""Ctrl-C while a matrix is being decomposed, which nothing else can stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


@contextmanager
def ends_at_once(clean_up: Callable[[], None]) -> Iterator[None]:
    """Within this block Ctrl-C ends the process without waiting for its threads.

    Python would wait for each to finish its matrix, minutes for a large one. There must be nothing
    to be saved: nothing but `clean_up` runs.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        clean_up()
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
