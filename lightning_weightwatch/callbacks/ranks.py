"""The processes of a Trainer, as trials want them."""

from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer


class TrainerRanks:
    """What the processes of a Trainer agree on, sums and least values over them: all collectives.

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
        return self._reduced(values, "sum")

    def least(self, values: Tensor) -> Tensor:
        """The least of each value of a tensor over them."""
        return self._reduced(values, "min")

    def _reduced(self, values: Tensor, how: str) -> Tensor:
        reduced = self._strategy.reduce(values, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """The `"sum"`, `"min"` or `"max"` of a tensor over them, value by value."""
        total = self._strategy.reduce(values, reduce_op=how)
        assert isinstance(total, Tensor)
        return total
