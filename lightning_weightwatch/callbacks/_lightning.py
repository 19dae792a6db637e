"""`lightning.pytorch` or `pytorch_lightning`, decided once: the one that is in use."""

import sys
from typing import TYPE_CHECKING

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING or "pytorch_lightning" not in sys.modules or "lightning.pytorch" in sys.modules:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers.logger import DummyLogger, Logger
    from lightning.pytorch.trainer.states import TrainerFn
    from lightning.pytorch.utilities.seed import isolate_rng
else:
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.loggers.logger import DummyLogger, Logger
    from pytorch_lightning.trainer.states import TrainerFn
    from pytorch_lightning.utilities.seed import isolate_rng

__all__ = [
    "Callback",
    "DummyLogger",
    "LightningModule",
    "Logger",
    "MisconfigurationException",
    "Trainer",
    "TrainerFn",
    "isolate_rng",
    "rank_zero_info",
    "rank_zero_warn",
]
