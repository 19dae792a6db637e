"""Whether a metric is to rise, by the words in its name."""

import re
from typing import Literal

_TO_RISE = {
    "acc", "accuracy", "ap", "auc", "auprc", "auroc", "bleu", "dice", "f1", "fbeta", "hit",
    "iou", "jaccard", "kappa", "map", "matthews", "mcc", "meteor", "miou", "mrr", "ndcg",
    "precision", "psnr", "r2", "recall", "rouge", "rougel", "sensitivity", "specificity",
    "ssim", "success", "winrate",
}  # fmt: skip
# A dice loss and the error of an accuracy are to fall.
_TO_FALL = {"cost", "err", "error", "errors", "loss", "losses"}
_WORD = re.compile(r"[^\W_]+")
_INNER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def is_to_rise(metric: str) -> bool:
    """Whether a name says that more is better, as those of accuracies do.

    >>> [is_to_rise(name) for name in ("val_acc", "val/BinaryF1Score", "val_acc@5", "mAP50")]
    [True, True, True, True]
    >>> [is_to_rise(name) for name in ("val_loss", "val_dice_loss", "val_vacancy", "val_map_error")]
    [False, False, False, False]
    """
    return direction(metric) == "max"


def direction(curve: str) -> Literal["min", "max"] | None:
    """Which way the name of a curve says that it is to go; None where it does not say.

    >>> direction("train_loss"), direction("train_acc"), direction("train")
    ('min', 'max', None)
    """
    spelled = f"{curve} {_INNER.sub(' ', curve)}".lower()
    words = set(_WORD.findall(spelled))
    words |= {word.rstrip("0123456789") for word in words}
    if words & _TO_FALL:
        return "min"
    return "max" if words & _TO_RISE else None
