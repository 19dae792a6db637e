"""The processes of a Trainer, as trials want them."""

from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer


class TrainerRanks:
    """What the processes of a Trainer agree on, and the sums over them. All are collectives.

    Args:
        trainer: In the midst of its fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy = trainer.strategy

    def all_agree(self, yes: bool) -> bool:
        """Whether every process says yes."""
        return self._strategy.reduce_boolean_decision(yes, all=True)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over them."""
        total = self._strategy.reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total
