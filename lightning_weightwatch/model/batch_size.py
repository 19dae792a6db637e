"""How many samples a batch holds, found from the batch alone, whatever it is made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

# No more of a batch is looked at, since it is asked for at every step: parts in all, members of a
# list, its members and theirs where they may be samples, and levels.
_PARTS = 128
_MEMBERS = 16
_LOOKS = 4
_DEPTH = 8

# A tensor outvotes a bare list, and two lists of the same length the channels of their images.
_SURE, _LIKELY = 3, 2

_SCALARS = (str, bytes, int, float, complex, type(None))
_LISTS = (list, tuple)
_SHAPELESS = frozenset({list, tuple, dict, *_SCALARS})

# The first dimension of a tensor or array, None for a scalar; its number of dimensions and type.
_Array = tuple[int | None, tuple[int, Any]]


def batch_size(batch: Any, at_most: int | None = None) -> int:
    """The number of samples in a batch, which it does not always tell; 1 where nothing does.

    A batch with an integer `num_graphs` or `batch_size` is believed. In any other, each part votes,
    and most votes win:

    - a tensor or array for its first dimension;
    - a list or tuple whose members are samples for its length: dictionaries with the same keys,
      tensors of one kind and several lengths, tuples that are no batches, texts, numbers, objects;
    - one whose members are tensors of one kind and the same length for that, and half-heartedly for
      its own: that is how images in a list lose against the labels beside them;
    - dictionaries, dataclasses, other objects, and all other lists and tuples leave it to their
      members; scalars abstain.

    Of sizes with the same votes it is that of the loader, else the smallest. Where that is the
    constant size of something else, such as class weights, an epoch with a short last batch has a
    mean between the true one and that over its batches.

    What a batch cannot tell: of a tensor of shape (time, samples, features) it is the time; of
    images of the same shape in a list, without anything beside them, their channels; of a list
    with a single tensor, the first dimension of that.

    Args:
        batch: Anything. Not more than a few dozen of its parts are looked at.
        at_most: How many samples the loader puts in a batch, if known. What is larger is then
            something else, unless everything is.

    >>> import torch
    >>> batch_size([torch.zeros(5, 2), torch.zeros(5)])
    5
    >>> batch_size(([torch.zeros(3, 8, 8)] * 4, [{"boxes": torch.zeros(7, 4)}] * 4))
    4
    >>> batch_size([torch.zeros(points, 3) for points in (100, 250)])
    2
    >>> batch_size(object())
    1
    """
    size = known_batch_size(batch, at_most)
    return 1 if size is None else size


def known_batch_size(batch: Any, at_most: int | None = None) -> int | None:
    """The same; None where nothing tells. It raises nothing, whatever a batch does when looked at.

    Everything but `PackedSequence`, whose sizes are on the CPU, is read from shapes: no device is
    waited for.
    """
    poll = _Poll()
    poll.ask(batch)
    votes = poll.votes
    if at_most is not None:
        votes = {size: count for size, count in votes.items() if size <= at_most} or votes
    if not votes:
        return None
    most = max(votes.values())
    found = [size for size, count in votes.items() if count == most]
    return at_most if at_most in found else min(found)


class _Poll:
    """Asks the parts of a batch for its size."""

    def __init__(self) -> None:
        self.votes: dict[int, int] = {}
        self._left = _PARTS

    def _vote(self, size: int, votes: int) -> None:
        self.votes[size] = self.votes.get(size, 0) + votes

    def ask(self, part: Any, depth: int = 0) -> None:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            return
        try:
            self._ask(part, depth)
        except Exception:  # what cannot be looked into leaves it to the others
            return

    def _ask(self, part: Any, depth: int) -> None:
        array = _array(part)
        if array is not None:
            if array[0] is not None:
                self._vote(array[0], _SURE)
        elif isinstance(part, _SCALARS):
            return
        elif (size := _own_size(part)) is not None:
            self._vote(size, _SURE)
        elif isinstance(part, _LISTS) and not hasattr(part, "_fields"):
            self._ask_members(part, depth)
        else:
            self._ask_each(_fields(part), depth)

    def _ask_each(self, parts: Iterable[Any], depth: int) -> None:
        for part in islice(parts, max(self._left, 0)):
            self.ask(part, depth + 1)

    def _ask_members(self, members: Sequence[Any], depth: int) -> None:
        if not members:
            return
        seen = members[:_MEMBERS]
        self._left -= len(seen)
        arrays = list(filter(None, map(_array, seen)))
        if len(arrays) == len(seen):
            self._ask_arrays(members, arrays)
        elif arrays or _own_size(seen[0]) is not None:
            self._ask_each(seen, depth)
        elif _are_samples(seen):
            self._vote(len(members), _SURE)
        elif len(set(map(type, seen))) == 1 and not isinstance(seen[0], (*_LISTS, Mapping)):
            self._vote(len(members), _LIKELY)
        else:
            self._ask_each(seen, depth)

    def _ask_arrays(self, members: Sequence[Any], arrays: Sequence[_Array]) -> None:
        lengths = [length for length, _ in arrays if length is not None]
        if not lengths:
            self._vote(len(members), _LIKELY)
            return
        if len({kind for _, kind in arrays}) > 1:
            for length in lengths:
                self._vote(length, _SURE)
            return
        most = max(lengths, key=lengths.count)
        together = lengths.count(most)
        # A tuple is more often fields than samples: targets, tokens, and their offsets.
        if together == len(lengths) or (isinstance(members, tuple) and 2 * together > len(lengths)):
            self._vote(most, _SURE)
            self._vote(len(members), _LIKELY)
        else:
            self._vote(len(members), _SURE)


def _array(part: Any) -> _Array | None:
    if isinstance(part, Tensor):
        ndim = part.ndim
        length = None if not ndim else part.size(0) if part.is_nested else part.shape[0]
        return length, (ndim, part.dtype)
    if type(part) in _SHAPELESS:
        return None
    shape = _attribute(part, "shape")
    if type(shape) is not tuple or not all(isinstance(size, int) for size in shape):
        return None
    return shape[0] if shape else None, (len(shape), _attribute(part, "dtype"))


def _attribute(part: Any, name: str) -> Any:
    try:
        return getattr(part, name, None)
    except Exception:
        return None


def _own_size(part: Any) -> int | None:
    if type(part) in _SHAPELESS or isinstance(part, Tensor):
        return None
    if isinstance(part, PackedSequence):
        return int(part.batch_sizes[0])
    for name in ("num_graphs", "batch_size"):
        size = _attribute(part, name)
        if isinstance(size, tuple) and size:  # of a TensorDict
            size = size[0]
        if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
            return size
    return None


def _fields(part: Any) -> Iterable[Any]:
    if isinstance(part, Mapping):
        return part.values()
    if isinstance(part, tuple):
        return part
    if is_dataclass(part) and not isinstance(part, type):
        return (getattr(part, field.name) for field in fields(part))
    return () if isinstance(part, type) else vars(part).values()


def _are_samples(members: Sequence[Any]) -> bool:
    """Whether these containers are a sample each, rather than a field or a batch each.

    Samples look alike. A field is a list of things that look alike, unless it is a tuple in a list,
    as a data set gives its samples. In a batch all tensors have the same length; where those of the
    next batch have another, it is a list: `default_collate` makes lists of tuples.
    """
    members = members[:_LOOKS]
    first = members[0]
    if isinstance(first, Mapping):
        return all(isinstance(m, Mapping) and m.keys() == first.keys() for m in members)
    if not first or not all(isinstance(member, _LISTS) for member in members):
        return False
    looks = [_look(part) for part in first[:_LOOKS]]
    from_a_data_set = isinstance(members, list) and isinstance(first, tuple)
    if len(set(looks)) == 1 and not (from_a_data_set and isinstance(looks[0], tuple)):
        return False
    if any([_look(part) for part in member[:_LOOKS]] != looks for member in members[1:]):
        return False
    lengths = [{_length(part) for part in member[:_LOOKS]} for member in members]
    batches = all(len(found) == 1 and None not in found for found in lengths)
    same = all(found == lengths[0] for found in lengths)
    return not (batches and (same or isinstance(first, list)))


def _look(part: Any) -> Any:
    array = _array(part)
    return type(part) if array is None else array[1]


def _length(part: Any) -> int | None:
    array = _array(part)
    return None if array is None else array[0]
