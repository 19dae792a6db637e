"""Which of a log's curves are the validation metric, the training loss and the learning rates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.printable import quoted

#: What `OverfittingMonitor` logs: the mean over all samples of the epoch, and what it followed.
OUR_TRAIN_LOSS = "weightwatch/train_loss"
OUR_MONITOR = "weightwatch/val_metric"

# The likeliest first.
_MONITORS = (
    "val_loss", "val/loss", "valid_loss", "valid/loss", "validation_loss", "validation/loss",
    "val_loss_epoch", "val/loss_epoch", "valid_loss_epoch", "valid/loss_epoch", "eval_loss",
    "eval/loss", "loss/val", "loss/valid", "loss/validation", "loss/eval", "validation/epoch_loss",
    "val/epoch_loss", "valid/epoch_loss", "loss_val", "loss_valid", "loss_validation", "loss_eval",
    "loss/test",
)  # fmt: skip
_TRAINING = (
    OUR_TRAIN_LOSS, "train_loss_epoch", "train/loss_epoch", "train_loss", "train/loss",
    "training_loss", "training/loss", "loss/train", "loss/training", "loss_train",
    "loss_training", "train/epoch_loss", "training/epoch_loss", "loss_epoch", "loss",
    "train_loss_step", "train/loss_step", "loss_step",
)  # fmt: skip
_LEARNING_RATES = ("lr", "learning_rate", "epoch_lr", "epoch_learning_rate")
_VALIDATION = {"val", "valid", "validation", "eval", "evaluation"}
_OTHER_DATA = {"dev", "test", "testing"}
_TRAIN = {"train", "training"}
_WORD = re.compile(r"[a-z0-9]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # of camelCase
_OF_VALIDATION = re.compile(r"(?<![a-z])(?:validation|valid|val|eval)(?![a-z])")
_NOT_RATES = ("-momentum", "-weight_decay")  # what LearningRateMonitor may log beside
_ONE_OF_SEVERAL_LOADERS = "/dataloader_idx_"
_SHOWN = 24


def choose_monitor(source: str, names: Sequence[str], asked: str | None) -> str:
    """The validation metric.

    Args:
        source: What messages name.
        names: Of all curves.
        asked: The one that is asked for; None for a validation loss of a usual name, else the only
            curve with a word for validation (`val`, `valid`, `eval`, ...) in its name, else what
            `OverfittingMonitor` followed.

    Raises:
        BadFile: If it is not there, or several could be meant.
    """
    if asked is not None:
        return _asked(source, names, asked, "monitor")
    found = _first(_MONITORS, names)
    if found is not None:
        return found
    of_validation = _of_validation(names)
    whole = [
        name
        for name in of_validation
        if _ONE_OF_SEVERAL_LOADERS not in name and not name.endswith("_step")
    ]
    if len(whole) == 1:
        return whole[0]
    if OUR_MONITOR in names:
        return OUR_MONITOR
    problem = "several validation metrics" if of_validation else "no validation metric by its name"
    raise BadFile(
        f"{source}: has {problem}. Name the one to follow with --monitor (monitor=...): "
        f"{_listed(of_validation or names)}."
    )


def training_curves(
    source: str, names: Sequence[str], asked: str | None, monitor: str
) -> list[str]:
    """What may be the training curve, the likeliest first; none where no name says so.

    A training loss comes first also where the validation metric is another; the same metric of the
    training (`train_acc` beside `val_acc`) last.

    Raises:
        BadFile: If the one that is asked for is not there.
    """
    if asked is not None:
        return [_asked(source, names, asked, "train")]
    others = [name for name in names if name != monitor]
    losses = [
        name for name in others if _spelled(name).startswith("train") and "loss" in _spelled(name)
    ]
    there = _by_spelling(others)
    found = [there[name] for name in _TRAINING if name in there]
    found += losses if len(losses) == 1 else []
    found += [there[name] for name in _of_training(monitor) if name in there]
    return list(dict.fromkeys(found))


def _of_validation(names: Sequence[str]) -> list[str]:
    """What is of validation data by a word of its name: the first, else any; else of other data.

    `value_loss` of a critic is not.
    """
    words = {name: _WORD.findall(_spelled(name)) for name in names}
    open_to = {
        name: said
        for name, said in words.items()
        if not _TRAIN & set(said) and not name.startswith("weightwatch/")
    }
    first = [name for name, said in open_to.items() if said and said[0] in _VALIDATION]
    anywhere = [name for name, said in open_to.items() if _VALIDATION & set(said)]
    other = [name for name, said in open_to.items() if _OTHER_DATA & set(said)]
    # What our monitor followed is surer than these.
    return first or ([] if OUR_MONITOR in names else anywhere or other)


def _of_training(monitor: str) -> list[str]:
    """What the training's own values of a validation metric are usually called."""
    spelled = _spelled(monitor)
    if not _OF_VALIDATION.search(spelled):
        return []
    words = [_OF_VALIDATION.sub(word, spelled, count=1) for word in ("train", "training", "")]
    return [*words[:2], words[2].strip("_/-. ")]


def is_mean_of_epoch(train: str) -> bool:
    """Whether a training curve is known by its name to hold means, however often it is logged."""
    return train == OUR_TRAIN_LOSS or train.endswith("_epoch")


def of_single_steps(names: Sequence[str], train: str) -> str | None:
    """The curve of single steps that Lightning logs beside one of means."""
    steps = f"{train.removesuffix('_epoch')}_step"
    return steps if train.endswith("_epoch") and steps in names else None


def learning_rates(names: Sequence[str]) -> list[str]:
    """Those of LearningRateMonitor (`lr-Adam`, ...) and of Keras."""
    return [
        name
        for name in names
        if (name.startswith("lr-") and not name.endswith(_NOT_RATES))
        or name.lower().rpartition("/")[2] in _LEARNING_RATES
    ]


def _asked(source: str, names: Sequence[str], asked: str, option: str) -> str:
    if asked in names:
        return asked
    raise BadFile(
        f"{source}: has no {quoted(asked)}. Name one with --{option} ({option}=...): "
        f"{_listed(names)}."
    )


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    there = _by_spelling(names)
    return next((there[name] for name in wanted if name in there), None)


def _by_spelling(names: Sequence[str]) -> dict[str, str]:
    return {_spelled(name): name for name in reversed(names)}


def _spelled(name: str) -> str:
    """As the lists above spell it: `valLoss`, `Val Loss` and `val-loss` are `val_loss`."""
    return re.sub(r"[ .-]", "_", _HUMP.sub("_", name)).lower()


def _listed(names: Sequence[str]) -> str:
    """Some of the names, those of losses and of training and validation first."""

    def rank(name: str) -> int:
        return -sum(word in name.lower() for word in ("val", "train", "loss", "acc"))

    shown = sorted(names, key=rank)[:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(quoted(name, 60) for name in shown) or "there is none") + more
