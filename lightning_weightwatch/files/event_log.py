"""The scalars in a run's event files, which TensorBoard reads too.

Only its message types are used, not its loader: that cannot tell a record cut short, as in a run
that still writes, from a damaged one; it loads TensorFlow wherever that is installed; and it takes
seconds to sum up every picture and histogram.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_weightwatch.files.bad_file import BadFile, check_regular, reading
from lightning_weightwatch.files.beside_fit import without_returns
from lightning_weightwatch.files.logged import MAX_EPOCH, Log, Point, epoch_of_step, latest

_EPOCH = "epoch"
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_SMALL = 512
_EXPECTED = "Give the folder of the run."


def is_event_file(path: Path) -> bool:
    """Whether a file is one of events, by its name, as TensorBoard tells them."""
    return "tfevents" in path.name and path.suffix != ".csv"


def open_events(source: Path, files: Sequence[Path]) -> Log:
    """The scalars of a run; several files are one run that was resumed.

    Args:
        source: What messages name: the folder, or the one file.
        files: Its event files.

    Raises:
        BadFile: If one cannot be read, is damaged, or none has a scalar.
    """
    written: list[tuple[float, str, dict[str, list[Point]]]] = []
    for file in files:
        began, scalars = _scalars(file)
        written.append((began, file.name, scalars))
    curves: dict[str, list[Point]] = {}
    for _, _, scalars in sorted(written, key=lambda part: part[:2]):
        for tag, values in scalars.items():
            curves.setdefault(tag, []).extend(values)
    if not curves:
        raise BadFile(
            f"{source}: its event files hold no scalars. If the run has just begun, wait for its "
            "first validation; otherwise give the folder of another run."
        )
    epochs = without_returns(curves.pop(_EPOCH, []), [], has_steps=True)
    epochs = latest(epochs, has_steps=True)
    epoch = epoch_of_step({point.position: round(point.value) for point in epochs})

    def written_of(name: str) -> list[Point]:
        return [point._replace(epoch=epoch(point.position)) for point in curves[name]]

    first = min((round(point.value) for point in epochs), default=None)
    return Log(str(source), tuple(curves), written_of, has_steps=True, first_epoch=first)


def _scalars(file: Path) -> tuple[float, dict[str, list[Point]]]:
    """When a file was begun, and of each tag the points in it, without epochs.

    Raises:
        BadFile: If it cannot be read or is damaged.
    """
    began = math.inf
    scalars: dict[str, list[Point]] = {}
    event = _event_type()()
    for start, record, checksum in _records(file):
        try:
            event.ParseFromString(record)
        except Exception as error:  # protobuf's DecodeError has had several homes
            raise _damaged(file, start) from error
        began = min(began, event.wall_time)
        found = [(value.tag, number) for value in event.summary.value for number in _number(value)]
        # Summing up is slow: not of the pictures and histograms. A record of one scalar is small,
        # and in a damaged one it might not be found.
        used = found or len(record) < _SMALL
        if used and _masked_checksum(record) != checksum:
            raise _damaged(file, start)
        for tag, number in found:
            if tag == _EPOCH and not 0 <= number < MAX_EPOCH:
                raise BadFile(f"{file}: at step {event.step} the epoch is {number:g}. {_EXPECTED}")
            point = Point(event.step, None, number, event.wall_time)
            scalars.setdefault(tag, []).append(point)
    return began, scalars


def _records(file: Path) -> Iterator[tuple[int, bytes, int]]:
    """Start, bytes and checksum of each whole record; one cut short at the end is left out."""
    with reading(file):
        state = file.stat()
        check_regular(file, state.st_mode, _EXPECTED)
        with file.open("rb") as opened:
            while len(header := opened.read(_HEADER.size)) == _HEADER.size:
                place = opened.tell() - _HEADER.size
                length, checksum = _HEADER.unpack(header)
                if _masked_checksum(header[:8]) != checksum:
                    if any(header + opened.read()):
                        raise _damaged(file, place)
                    return  # zeros: left at the end by a machine that went down
                if opened.tell() + length + _CHECKSUM.size > state.st_size:
                    return
                yield place, opened.read(length), _CHECKSUM.unpack(opened.read(_CHECKSUM.size))[0]


def _damaged(file: Path, place: int) -> BadFile:
    if place == 0:
        return BadFile(f"{file}: not an event file of TensorBoard, or a damaged one. {_EXPECTED}")
    return BadFile(
        f"{file}: damaged at byte {place:,}. Fetch it again, or move it out of the folder if the "
        "other files of the run are enough."
    )


def _event_type() -> Any:
    with warnings.catch_warnings():  # protobuf's, of types made for another version of it
        warnings.simplefilter("ignore")
        from tensorboard.compat.proto.event_pb2 import Event
    return Event


def _number(value: Any) -> tuple[float, ...]:
    """The number of a value, none for a picture, text or histogram."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return (value.simple_value,)
    tensor = value.tensor
    if kind != "tensor" or any(axis.size != 1 for axis in tensor.tensor_shape.dim):
        return ()
    # DT_FLOAT and DT_DOUBLE.
    kinds = {1: (tensor.float_val, "<f"), 2: (tensor.double_val, "<d")}
    numbers, form = kinds.get(tensor.dtype, ((), ""))
    if form and len(tensor.tensor_content) == struct.calcsize(form):
        return struct.unpack(form, tensor.tensor_content)
    return tuple(numbers[:1])


def _polynomial_remainders() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_REMAINDERS = _polynomial_remainders()


def _masked_checksum(content: bytes) -> int:
    """CRC-32C, turned and shifted as the format (TFRecord) has it."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum = _REMAINDERS[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    checksum ^= 0xFFFFFFFF
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
