"""Which keys a callback publishes, and what EarlyStopping and ModelCheckpoint ask of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from lightning_weightwatch.callbacks._lightning import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_weightwatch.callbacks.dashboard import Chart, Pin, dashboard, write_layout
from lightning_weightwatch.callbacks.publish import Publisher

#: EarlyStopping with at least this patience is taken to have none.
ENDLESS_PATIENCE = 10**6


class TrainerConfigurationError(MisconfigurationException, ValueError):
    """Callbacks of one Trainer that do not go together; raised before training."""


class KeyedCallback(Callback):
    """A callback whose values have names of the form `<prefix>/<name>`.

    Args:
        prefix: The first part of every key and tag.

    Raises:
        ValueError: For an empty prefix or one that starts or ends with a slash.
    """

    #: Names that can be monitored, with what they mean.
    KEYS: ClassVar[dict[str, str]] = {}
    #: Those that rest at 0 while all is well: for thresholds, not for patience.
    ALARMS: ClassVar[frozenset[str]] = frozenset()
    #: Whether the keys are there in time for EarlyStopping and ModelCheckpoint.
    DURING_FIT: ClassVar[bool] = True
    #: What is logged besides, with what it means: names below the prefix, and groups of charts.
    CHARTS: ClassVar[dict[str, str]] = {}
    #: Charts of TensorBoard's Custom Scalars, by their titles.
    CUSTOM_CHARTS: ClassVar[dict[str, Chart]] = {}
    #: Runs of TensorBoard below that of the logger.
    RUNS_BESIDE: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, prefix: str = "weightwatch") -> None:
        if not isinstance(prefix, str) or not prefix or prefix != prefix.strip("/ "):
            raise ValueError(
                "prefix must be a name without a slash or blank at its ends, such as "
                f"'weightwatch', got {prefix!r}"
            )
        self.prefix = prefix
        self.publisher = Publisher(self.description)
        self._warned: set[str] = set()

    def key(self, name: str) -> str:
        """The full name of a key."""
        return f"{self.prefix}/{name}"

    def layer_tag(self, metric: str, index: int, name: str) -> str:
        """The tag of a value of one layer; the index keeps TensorBoard in the model's order."""
        return f"{self.prefix}-{metric}/{index:03d}_{name}"

    def description(self, tag: str) -> str:
        """What a card of TensorBoard is about, in a sentence of Markdown."""
        rest = tag.removeprefix(self.prefix)
        name = rest[1:].partition("/")[0] if rest.startswith("-") else rest[1:]
        meaning = {**self.KEYS, **self.CHARTS}.get(name, "")
        alarm = " An alarm: it rests at 0 while all is well." if name in self.ALARMS else ""
        return f"{meaning[:1].upper()}{meaning[1:]}.{alarm}" if meaning else ""

    def pins(self) -> list[Pin]:
        """What of it belongs on a dashboard."""
        return []

    @property
    def logged_keys(self) -> tuple[str, ...]:
        """The full names of all keys."""
        return tuple(self.key(name) for name in self.KEYS)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check this callback against the others of the Trainer.

        Raises:
            TrainerConfigurationError: When another callback publishes the same keys, a monitored
                key with our prefix is none of ours, or EarlyStopping has patience on an alarm.
        """
        if stage != "fit":
            return
        self.publisher = Publisher(self.description)
        for other in keyed(trainer):
            shared = sorted(set(self.logged_keys) & set(other.logged_keys))
            if other is not self and shared:
                raise TrainerConfigurationError(
                    f"{type(self).__name__} and {type(other).__name__} would both publish "
                    f"{shared[0]}; give one of them a prefix of its own, such as "
                    f"prefix='{self.prefix}_2'"
                )
        for watcher in watchers(trainer):
            _check_key_exists(watcher, self, trainer)
            if watcher.monitor in {self.key(name) for name in self.ALARMS}:
                _check_alarm(watcher)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell TensorBoard which charts belong together; one callback does it for all."""
        callbacks = list(keyed(trainer))
        if callbacks[0] is self:
            with self._guarded("could not write to a logger"):
                write_layout(trainer, callbacks)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how to look at all that was logged, when the last of the callbacks is done."""
        callbacks = list(keyed(trainer))
        if callbacks[-1] is not self:
            return
        with self._guarded("could not tell how to open TensorBoard"):
            found = dashboard(trainer, callbacks)
            if found is not None:
                command, link = found
                rank_zero_info(f"To see what was logged: {command}\nand then {link}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close what this callback has opened."""
        self.publisher.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close it too when a fit breaks off, where Lightning calls no `teardown`."""
        self.publisher.close()

    def watched(self, trainer: Trainer, *, alarms: bool = False) -> bool:
        """Whether a callback or a learning-rate scheduler monitors a key of ours.

        Args:
            trainer: Schedulers are known from `on_train_start` on.
            alarms: Whether keys count that rest at 0, and so are always there.
        """
        keys = {self.key(name) for name in self.KEYS if alarms or name not in self.ALARMS}
        plateaus = [config.monitor for config in trainer.lr_scheduler_configs]
        monitored = [watcher.monitor for watcher in watchers(trainer)]
        return not keys.isdisjoint([*monitored, *filter(None, plateaus)])

    @contextmanager
    def _guarded(self, trouble: str) -> Iterator[None]:
        """Turn an exception into one warning, given outside of any except clause."""
        fault = None
        try:
            yield
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        if fault is not None:
            self._warn(trouble, fault)

    def _warn(self, topic: str, details: str) -> None:
        """Warn once per topic and run."""
        if topic not in self._warned:
            self._warned.add(topic)
            rank_zero_warn(f"{type(self).__name__} {topic}: {details}")


def keyed(trainer: Trainer) -> Iterator[KeyedCallback]:
    """Our own callbacks on a Trainer."""
    return (found for found in trainer.callbacks if isinstance(found, KeyedCallback))  # type: ignore[attr-defined]


def own_keys(trainer: Trainer) -> frozenset[str]:
    """Every key that a callback of ours publishes on this Trainer."""
    return frozenset(key for callback in keyed(trainer) for key in callback.logged_keys)


def watchers(trainer: Trainer) -> Iterator[Any]:
    """Callbacks of others with a `monitor`, whichever package their class comes from."""
    for found in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(found, KeyedCallback) and isinstance(
            getattr(found, "monitor", None), str
        ):
            yield found


def _check_key_exists(watcher: Any, callback: KeyedCallback, trainer: Trainer) -> None:
    if not watcher.monitor.startswith(f"{callback.prefix}/"):
        return
    known = {key: other for other in keyed(trainer) for key in other.logged_keys}
    during_fit = sorted(key for key, other in known.items() if other.DURING_FIT)
    name = f"{type(watcher).__name__}(monitor={watcher.monitor!r})"
    if watcher.monitor in known and not known[watcher.monitor].DURING_FIT:
        raise TrainerConfigurationError(
            f"{name}: this key is known only after training. To monitor while training there are: "
            + ", ".join(during_fit)
        )
    if watcher.monitor not in known:
        raise TrainerConfigurationError(
            f"{name}: no callback of this Trainer publishes that key. There are: "
            + ", ".join(during_fit)
            + f". If the module logs it itself, give {type(callback).__name__} another prefix"
        )


def _check_alarm(watcher: Any) -> None:
    """Refuse patience on a key that rests at 0, and a threshold that 0 itself would reach."""
    if not hasattr(watcher, "patience"):
        return
    key, name = watcher.monitor, type(watcher).__name__
    correct = (
        f"{name}(monitor={key!r}, mode='max', stopping_threshold=<the value to stop at>, "
        f"patience={ENDLESS_PATIENCE:_})"
    )
    if watcher.patience < ENDLESS_PATIENCE:
        raise TrainerConfigurationError(
            f"{name}(monitor={key!r}, patience={watcher.patience}) would stop a healthy "
            f"run: {key} is an alarm, it rests at 0 while all is well and then never improves. "
            f"Write {correct}"
        )
    threshold = getattr(watcher, "stopping_threshold", None)
    if getattr(watcher, "mode", "min") == "min" and threshold is not None and threshold > 0:
        raise TrainerConfigurationError(
            f"{name}(monitor={key!r}, mode='min', stopping_threshold={threshold}) would "
            f"stop at once: {key} is an alarm, it rests at 0, which is below the threshold. "
            f"Write {correct}"
        )
