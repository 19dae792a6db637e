"""Event files: cut short, damaged, of other writers, and beside TensorBoard's own reader."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.curves import Curves, read_curves
from lightning_weightwatch.files.event_log import open_events
from tests.files.runs import told_about

EPOCHS = 6


def written(folder: Path, **options: Any) -> Path:
    """The event file of a run with a picture of its weights in it."""
    with SummaryWriter(folder) as writer:
        for epoch in range(EPOCHS):
            step = 10 * epoch + 9
            writer.add_scalar("train_loss", 1 / (epoch + 1), step, **options)
            writer.add_scalar("val_loss", 1 / (epoch + 2), step, **options)
            writer.add_scalar("epoch", epoch, step, **options)
            writer.add_text("notes", "a text", step)
    (file,) = folder.glob("events*")
    return file


def framed(event: Event) -> bytes:
    """A record as TensorBoard's own code sums it up."""
    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + sums[0] + content + sums[1]


def outcome(file: Path) -> tuple[Curves | None, str]:
    """The curves of a file, or the one line that is said instead."""
    try:
        return read_curves(file), ""
    except BadFile as error:
        return None, str(error)


@pytest.mark.parametrize("options", [{}, {"new_style": True}, {"double_precision": True}], ids=repr)
def test_the_scalars_are_those_that_tensorboard_shows(
    options: dict[str, bool], tmp_path: Path
) -> None:
    file = written(tmp_path, **options)
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    log = open_events(tmp_path, [file])
    assert set(log.names) == {"train_loss", "val_loss"}
    for name in log.names:
        points = log.curve(name)
        assert [point.epoch for point in points] == list(range(EPOCHS))
        assert [(point.position, point.value) for point in points] == [
            (scalar.step, make_ndarray(scalar.tensor_proto).item())
            for scalar in shown.Tensors(name)
        ]


@pytest.mark.parametrize("double", [False, True])
def test_scalars_that_tensorflow_writes_as_bytes_are_read(double: bool, tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    for step, number in enumerate([2.5, 1.25]):
        content = struct.pack("<d" if double else "<f", number)
        tensor = TensorProto(dtype=2 if double else 1, tensor_content=content)
        value = Summary.Value(tag="val_loss", tensor=tensor)
        writer.add_event(Event(step=10 * step + 9, summary=Summary(value=[value])))
    writer.close()
    curves = read_curves(tmp_path)
    assert curves.val_values == (2.5, 1.25)
    assert curves.epochs == (0, 1)
    assert "validations are counted as epochs" in curves.notes[0]


def test_later_files_replace_what_earlier_ones_wrote_from_their_step_on(tmp_path: Path) -> None:
    for place, (first, value) in enumerate([(0, 1.0), (2, 2.0)]):
        records = [
            framed(
                Event(
                    wall_time=100.0 + place,
                    step=10 * epoch + 9,
                    summary=Summary(
                        value=[
                            Summary.Value(tag="epoch", simple_value=epoch),
                            Summary.Value(tag="val_loss", simple_value=value),
                        ]
                    ),
                )
            )
            for epoch in range(first, first + 3)
        ]
        # By its name the later file comes first: what was written when counts.
        (tmp_path / f"events.out.tfevents.{9 - place}").write_bytes(b"".join(records))
    curves = read_curves(tmp_path)
    assert curves.epochs == (0, 1, 2, 3, 4)
    assert curves.val_values == (1, 1, 2, 2, 2)


def test_a_file_cut_short_anywhere_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    counts = []
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        curves, reason = outcome(file)
        assert curves or "no scalars" in reason or "no validation metric" in reason
        counts.append(len(curves.epochs) if curves else 0)
    assert counts == sorted(counts)
    assert set(counts) == set(range(EPOCHS + 1))


def test_zeros_after_the_end_are_those_of_a_machine_that_went_down(tmp_path: Path) -> None:
    file = written(tmp_path)
    with file.open("ab") as opened:
        opened.write(bytes(4096))
    assert len(read_curves(file).epochs) == EPOCHS


def test_a_damaged_file_is_read_unharmed_or_one_line(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    expected = read_curves(file)
    dice = random.Random(0)
    outcomes = []
    for _ in range(500):
        changed = bytearray(whole)
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        file.write_bytes(changed)
        outcomes.append(outcome(file))
    assert all(curves in (None, expected) for curves, _ in outcomes)
    assert all(reason.isprintable() for _, reason in outcomes)
    assert sum(curves is None for curves, _ in outcomes) > 400


def test_damage_is_told_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    place = whole.index(b"val_loss")
    file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    told = told_about(tmp_path)
    assert "damaged at byte" in told
    assert "move it out of the folder" in told


@pytest.mark.parametrize("content", [b"epoch,val_loss\n0,1\n", b"\xff" * 100])
def test_what_is_no_event_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(content)
    assert "not an event file" in told_about(file)


@pytest.mark.parametrize("content", [b"", framed(Event(file_version="brain.Event:2"))])
def test_a_run_that_has_logged_nothing_is_said_to_hold_no_scalars(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    assert "hold no scalars" in told_about(tmp_path)


def test_an_epoch_that_is_none_is_told(tmp_path: Path) -> None:
    values = [
        Summary.Value(tag="val_loss", simple_value=1.0),
        Summary.Value(tag="epoch", simple_value=float("nan")),
    ]
    event = Event(step=5, summary=Summary(value=values))
    (tmp_path / "events.out.tfevents.1").write_bytes(framed(event))
    assert "at step 5 the epoch is nan" in told_about(tmp_path)


def test_a_record_that_claims_to_be_endless_is_one_cut_short(tmp_path: Path) -> None:
    file = written(tmp_path)
    length = struct.pack("<Q", 2**64 - 1)
    with file.open("ab") as opened:
        opened.write(length + struct.pack("<I", masked_crc32c(length)) + b"rest")
    assert len(read_curves(file).epochs) == EPOCHS
