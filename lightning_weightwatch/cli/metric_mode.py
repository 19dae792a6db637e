"""Whether a metric is to rise, by the words in its name."""

import re

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
    spelled = f"{metric} {_INNER.sub(' ', metric)}".lower()
    words = set(_WORD.findall(spelled))
    words |= {word.rstrip("0123456789") for word in words}
    return bool(words & _TO_RISE) and not words & _TO_FALL
