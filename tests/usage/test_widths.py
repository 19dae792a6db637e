"""A suggested width is enough for all that read the same, and can be built."""

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.usage.measurement import measure_usage
from lightning_weightwatch.usage.widths import dead_channels
from lightning_weightwatch.views.usage import usage_sentences
from tests.trials.layers import normal
from tests.usage.measured import rows_of


class TwoReaders(nn.Module):
    """One draws on features that the other does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(16, 3)
        with torch.no_grad():
            self.a.weight[:, 4:] = 0
            self.b.weight[:, :5] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).cos()
        return self.a(x) + self.b(x)  # type: ignore[no-any-return]


def test_what_one_reader_of_a_tensor_needs_is_suggested_to_all() -> None:
    torch.manual_seed(0)
    report = measure_usage(TwoReaders(), normal(50, 4), keep=1.0)
    _, a, b = report.layers
    assert (a.suggested_inputs, b.suggested_inputs) == (4 + 11, 4 + 11)
    _, _, of_a, of_b, _ = usage_sentences(report)
    assert "15 carry 100 % of the importance of it and of b, which read the same" in of_a
    assert "15 carry 100 % of the importance of it and of a, which read the same" in of_b


@pytest.mark.parametrize(
    ("groups", "used", "expected"), [(1, 5, 5), (4, 5, 8), (2, 5, 6), (8, 5, 5)], ids=str
)
def test_convolutions_in_groups_are_suggested_multiples_of_them(
    groups: int, used: int, expected: int
) -> None:
    first = nn.Conv1d(2, 8, 1, bias=False)
    with torch.no_grad():
        first.weight[used:] = 0
    model = nn.Sequential(first, nn.Conv1d(8, 8, 1, groups=groups))
    found = rows_of(model, normal(9, 2, 5), keep=1.0)["1"]
    assert len(found.dead_inputs) == 8 - used
    assert found.suggested_inputs == expected


def test_nothing_is_promised_where_a_skip_connection_reads_the_rest() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)
            with torch.no_grad():
                self.a.weight[:, :10] = 0

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.b(x + self.a(x))  # type: ignore[no-any-return]

    _, _, told, _, worth = usage_sentences(measure_usage(Block(), normal(50, 4), keep=1.0))
    assert "as far as this layer goes, 6 features would do" in told
    assert "what else reads it, such as a skip connection, is not seen" in worth


def test_a_channel_is_dead_where_all_of_its_positions_are() -> None:
    dead = torch.tensor([True, True, True, False, True, False])
    assert dead_channels(dead, 6) == (0, 1, 2, 4)
    assert dead_channels(dead, 3) == (0,)  # 0 0 1 1 2 2
    assert dead_channels(dead, -2) == (0,)  # 0 1 0 1 0 1
    assert dead_channels(dead, 0) == ()
