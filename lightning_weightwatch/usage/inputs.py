"""How large the inputs of layers are: the norm of each input feature over some batches."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_weightwatch.model.hooked import Hook, Hooked, is_traced
from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.usage.met import Args, Kwargs, Seen, home_of, small, wide
from lightning_weightwatch.usage.order import Order, tensors_in
from lightning_weightwatch.usage.oriented import shape_of
from lightning_weightwatch.usage.reading import Reader, plain_reader

#: How to read what a weight meets, or why that cannot be read.
ReaderOf = Callable[[Weight], Reader | str]
#: A weight by its name, and a part of it: 0, or 1 and 2 for keys and values.
Place = tuple[str, int]

# Private, and there since torch 2.0; without it nothing is known of a backward pass.
_task: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)


class InputSums(Hooked):
    """Σ x² of each input feature j of some weights, over every forward pass within the block.

    Hooks add up in float64 (float32 on MPS). They change no value, raise nothing, and are gone
    after the block.

    Args:
        weights: Of the model that will be run.
        reader_of: How each of them can be read.
        order: Of the layers, to tell what comes from where; None if nobody asks.
    """

    def __init__(
        self, weights: Sequence[Weight], reader_of: ReaderOf, order: Order | None = None
    ) -> None:
        self.paused = False
        self._order = order
        self._weights = {weight.name: weight for weight in weights}
        self._from_data: dict[Place, bool] = {}
        self._read: dict[Place, int] = {}  # see `Order.read`
        self._readers: dict[Reader, dict[str, str]] = {}
        self._unseen: dict[str, str] = {}
        self._complex: set[str] = set()
        self._squares: dict[str, Tensor] = {}
        self._rows: dict[str, list[int]] = {}
        self._passes: dict[str, int] = {}
        self._places: list[Place] = []
        self._shared: dict[Place, int] = {}  # 0 for none, else a place and 1
        self._first_given = WeakTensorKeyDictionary()
        for weight in weights:
            reader = reader_of(weight)
            if isinstance(reader, str):
                self._unseen[weight.name] = reader
                continue
            self._readers.setdefault(reader, {})[weight.attribute] = weight.name
            self._squares[weight.name] = _zeros(weight)
            parts = 3 if weight.attribute == "in_proj_weight" else 1
            self._rows[weight.name] = [0] * parts
            self._passes[weight.name] = 0
            self._places += [(weight.name, part) for part in range(parts)]

    def put_on(self, on: ExitStack) -> None:
        """Hooks before and after layers."""
        on.callback(self._first_given.clear)
        if self._order is not None:
            self._order.put_on_starts(on)
        for reader, names in self._readers.items():
            if reader.after:
                after = Hook(partial(self._after, reader, names))
                handle = reader.module.register_forward_hook(after, with_kwargs=True)
            else:
                before = Hook(partial(self._before, reader, names))
                handle = reader.module.register_forward_pre_hook(before, with_kwargs=True)
            on.callback(handle.remove)
        if self._order is not None:
            self._order.put_on_ends(on)

    def _before(
        self, reader: Reader, names: Mapping[str, str], _: nn.Module, args: Args, kwargs: Kwargs
    ) -> None:
        self._after(reader, names, _, args, kwargs, None)

    @torch.no_grad()
    def _after(
        self,
        reader: Reader,
        names: Mapping[str, str],
        _: nn.Module,
        args: Args,
        kwargs: Kwargs,
        output: Any,
    ) -> None:
        if is_traced() or self.paused or _is_run_again():
            return
        # What autocast casts without gradients is not to be kept for the pass itself.
        kept = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            arguments = list(tensors_in((args, kwargs)))
            if self._order is not None:
                self._order.arrive(arguments)
            seen = reader.read(reader.module, args, kwargs, output)
            for attribute, name in names.items():
                if attribute in seen:
                    self._add(name, seen[attribute], arguments)
                elif any(argument.is_complex() for argument in arguments):
                    self._complex.add(name)
        except Exception as error:  # what a layer is given is not known; the pass goes on
            for name in names.values():
                self._unseen[name] = f"what it was given cannot be read: {error}"
        finally:
            torch.set_autocast_cache_enabled(kept)

    def _add(self, name: str, seen: Seen, arguments: Sequence[Tensor]) -> None:
        squares = self._squares[name]
        if seen.squares.shape != squares.shape:
            return
        squares += seen.squares.to(squares)
        self._passes[name] += 1
        rows = self._rows[name]
        for part in range(len(rows)):
            rows[part] += seen.rows[part]
            place, given = (name, part), seen.given[part]
            self._share(place, given)
            if self._order is not None:
                from_data = self._order.is_data(given, arguments)
                self._from_data[place] = self._from_data.get(place, True) and from_data
                read = self._order.read(self._weights[name], part, given, arguments)
                if self._read.setdefault(place, read) != read:
                    self._read[place] = 0

    def _share(self, place: Place, given: Any) -> None:
        """Note which place was the first to get a tensor, unless it was written to since."""
        first = 0
        if isinstance(given, Tensor):
            version = -1 if given.is_inference() else given._version
            if given not in self._first_given or self._first_given[given][1] != version:
                self._first_given[given] = (place, version)
            holder = self._first_given[given][0]
            first = 0 if holder == place else self._places.index(holder) + 1
        if self._shared.setdefault(place, first) != first:
            self._shared[place] = 0

    def merge(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Put together what several processes have seen.

        Args:
            reduce: The sum of a tensor over all processes. Called once a weight, in the same order
                everywhere, whatever a process has seen.
        """
        for name, squares in self._squares.items():
            rows = self._rows[name]
            more = [self._passes[name], name in self._unseen, *rows]
            for part in range(len(rows)):
                for known in (self._shared, self._read):
                    own = known.get((name, part))
                    # Of equal numbers the square of the mean is the mean of the squares.
                    more += [0, 0, 0] if own is None else [1, own, own**2]
                more.append(self._from_data.get((name, part), False))
            summed = reduce(torch.cat([squares.flatten(), squares.new_tensor(more)]))
            self._squares[name] = summed[: squares.numel()].view_as(squares)
            passes, failed, *rest = map(round, summed[squares.numel() :].tolist())
            self._passes[name] = passes
            if failed:
                self._unseen.setdefault(name, "another process could not read what it was given")
            self._rows[name] = rest[: len(rows)]
            for part in range(len(rows)):
                *numbers, from_data = rest[len(rows) + 7 * part :][:7]
                if numbers[0]:
                    self._shared[name, part] = _agreed(*numbers[:3])
                    self._read[name, part] = _agreed(*numbers[3:])
                    self._from_data[name, part] = from_data == numbers[0]

    def squares(self, name: str) -> Tensor:
        """Σ x² [g, n] of the weight of that name."""
        return self._squares[name]

    def rows(self, name: str) -> Sequence[int]:
        """Over how many rows: of all g, or of query, key and value."""
        return self._rows[name]

    def shares_with(self, name: str, part: int = 0) -> Place | None:
        """The weight, and its part, that was given the very same tensor before, at each pass."""
        first = self._shared.get((name, part), 0)
        return self._places[first - 1] if first else None

    def is_from_data(self, name: str, part: int = 0) -> bool:
        """Whether it was given data at each pass, not what another layer gave."""
        return self._from_data.get((name, part), False)

    def channels_read(self, name: str, part: int = 0) -> int:
        """The channels of the layer before that it reads; see `Order.read`."""
        return self._read.get((name, part), 0)

    def missing(self, name: str) -> str:
        """Why there are no sums for the weight of that name; an empty string where there are."""
        if name in self._unseen:
            return self._unseen[name]
        if not self._passes.get(name):
            return "its inputs are complex" if name in self._complex else "no input was seen"
        largest = float(self._squares[name].max()) if self._squares[name].numel() else 0.0
        if not math.isfinite(largest):
            return "its inputs are not finite"
        tiny = 0 < largest < small(self._squares[name].dtype)
        return "its inputs are too small to be squared" if tiny else ""


class InputNorms(Hooked):
    """‖X_j‖₂ of each input feature j of some weights, over every forward pass within the block.

    Forward pre-hooks add up the squares in float64 (float32 on MPS). They change no value and are
    gone after the block. While there are hooks, `nn.TransformerEncoderLayer` does not take its
    fused path in evaluation, whose results may differ in the last bits.

    | layer                            | input feature                                       |
    |----------------------------------|-----------------------------------------------------|
    | linear                           | a column, over all leading dimensions               |
    | convolution                      | a channel at an offset of the kernel, over all      |
    |                                  | windows: exact, with padding, stride and dilation   |
    | transposed convolution           | a channel, the same for all offsets                 |
    | `MultiheadAttention`'s q, k, v   | a column of query, key and value                    |

    A weight that several modules share is seen at the first of them.

    Args:
        weights: Of the model that will be run.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_weightwatch.model.weights import walk
        >>> model = nn.Linear(2, 3, bias=False)
        >>> weights = list(walk(model))
        >>> with InputNorms(weights) as norms:
        ...     _ = model(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        >>> norms.of(weights[0]).tolist()
        [[5.0, 1.0]]
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._sums = InputSums(weights, plain_reader)

    def put_on(self, on: ExitStack) -> None:
        """Hooks before and after layers."""
        on.enter_context(self._sums)

    def merge(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Put together what several processes have seen.

        Args:
            reduce: The sum of a tensor over all processes. Called once a weight, in the same order
                everywhere, whatever a process has seen.
        """
        self._sums.merge(reduce)

    def of(self, weight: Weight) -> Tensor | None:
        """The norms [g, n] of the n inputs of each output row of a weight, else None.

        The rows come in g equal parts of different inputs: the groups of a convolution; queries,
        keys and values; for all else g is 1.
        """
        return None if self.missing(weight) else self._sums.squares(weight.name).sqrt()

    def missing(self, weight: Weight) -> str:
        """Why there are no norms for a weight; an empty string where there are."""
        return self._sums.missing(weight.name)


def _zeros(weight: Weight) -> Tensor:
    """[g, n] sums, as a tensor of its own even where the forward passes are inference."""
    groups, _, inputs, offsets = shape_of(weight)
    device = home_of(weight)
    return torch.zeros(groups, inputs * offsets, dtype=wide(device), device=device)


def _is_run_again() -> bool:
    """Whether a backward pass is on: checkpointed layers run again in it, in another order."""
    return _task() != -1


def _agreed(count: int, total: int, of_squares: int) -> int:
    """The number that several processes have, or 0 where they do not agree."""
    return total // count if count and total**2 == of_squares * count else 0
