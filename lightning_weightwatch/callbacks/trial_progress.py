"""How far the trials are: the plan in a sentence, and a bar beside that of the validation."""

import sys
from typing import Any

from lightning_weightwatch.callbacks._lightning import Tqdm, Trainer, rank_zero_info
from lightning_weightwatch.trials.bench import Watcher
from lightning_weightwatch.trials.plan import Plan


class TrialProgress(Watcher):
    """Says the plan, and draws a bar in the style of the Trainer's own, where it has one.

    Args:
        trainer: Its progress bar tells which.
        title: What the plan and the bar are called.
        limits: What ends it early, in words; empty for nothing.
    """

    def __init__(self, trainer: Trainer, title: str, limits: str) -> None:
        self._trainer, self._title, self._limits = trainer, title, limits
        self._bar: _Bar | None = None

    def planned(self, plan: Plan) -> None:
        """Say how much there is to do."""
        variants = f"{len(plan.steps)} variant{'s' if len(plan.steps) != 1 else ''}"
        limits = f"; it stops at {self._limits} with what it has then" if self._limits else ""
        rank_zero_info(
            f"{self._title} tries {variants}, about {duration(plan.seconds)} (validating once took "
            f"{duration(plan.evaluation_seconds)}){limits}"
        )

    def begins(self, name: str, done: int, planned: int) -> None:
        """Move the bar."""
        if self._bar is None:
            self._bar = _bar_of(self._trainer, planned)
        self._bar.show(f"{self._title} {done + 1}/{planned} {name}", done)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def duration(seconds: float) -> str:
    """Seconds in words that a person would use.

    >>> [duration(seconds) for seconds in (0.01, 0.42, 8, 75, 7300)]
    ['0.1 s', '0.4 s', '8 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 3:
        return f"{max(seconds, 0.1):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


class _Bar:
    """No bar: where the user wants none, or has one of another kind."""

    def show(self, text: str, done: int) -> None:
        """Say what is being done."""

    def close(self) -> None:
        """Take it away."""


class _Tqdm(_Bar):
    """A line of tqdm below the two of the user's bar."""

    def __init__(self, bar: Any, planned: int) -> None:
        position = 2 * bar.process_position + 2
        self._line = Tqdm(total=planned, position=position, leave=False, file=sys.stdout)

    def show(self, text: str, done: int) -> None:
        self._line.set_description(text, refresh=False)
        self._line.n = done
        self._line.refresh()

    def close(self) -> None:
        self._line.close()


class _Rich(_Bar):
    """A task in the progress of the user's RichProgressBar."""

    def __init__(self, bar: Any, planned: int) -> None:
        self._progress = bar.progress
        self._task = bar.progress.add_task("", total=planned)

    def show(self, text: str, done: int) -> None:
        self._progress.update(self._task, description=text, completed=done)

    def close(self) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.remove_task(self._task)


def _bar_of(trainer: Trainer, planned: int) -> _Bar:
    """By what the user's bar has: its class is of either package, or their own."""
    bar: Any = trainer.progress_bar_callback
    if bar is None or getattr(bar, "is_disabled", True):
        return _Bar()
    if getattr(bar, "progress", None) is not None:
        return _Rich(bar, planned)
    return _Tqdm(bar, planned) if hasattr(bar, "init_validation_tqdm") else _Bar()
