"""`lightning.pytorch` or `pytorch_lightning`, decided once: the one that is in use."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING or "pytorch_lightning" not in sys.modules or "lightning.pytorch" in sys.modules:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
    from lightning.pytorch.loggers.logger import DummyLogger, Logger
    from lightning.pytorch.trainer.states import TrainerFn
    from lightning.pytorch.utilities.seed import isolate_rng
else:
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
    from pytorch_lightning.loggers.logger import DummyLogger, Logger
    from pytorch_lightning.trainer.states import TrainerFn
    from pytorch_lightning.utilities.seed import isolate_rng

__all__ = [
    "Callback",
    "DummyLogger",
    "LightningModule",
    "Logger",
    "MisconfigurationException",
    "Tqdm",
    "Trainer",
    "TrainerFn",
    "flat_hyperparameters",
    "isolate_rng",
    "rank_zero_info",
    "rank_zero_warn",
]


def flat_hyperparameters(params: Mapping[str, Any]) -> dict[str, float | str]:
    """Hyperparameters as the loggers of this Lightning write them: `a/b`, numbers and strings.

    Its functions for that are its own, and differ from version to version.
    """
    own = import_module(f"{MisconfigurationException.__module__.rpartition('.')[0]}.logger")
    flat: dict[str, float | str] = own._sanitize_params(own._flatten_dict(dict(params)))
    return flat
