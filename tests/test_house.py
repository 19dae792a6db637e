"""The rooms below the callbacks load nothing that belongs to the rooms above them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_weightwatch

PACKAGE = Path(lightning_weightwatch.__file__).parent
ABOVE_TENSORS = ["lightning", "pytorch_lightning", "matplotlib", "tensorboard", "torchmetrics"]
BELOW_VIEWS = [
    "report",
    "model",
    "values",
    "files",
    "weights",
    "spectral",
    "losses",
    "usage",
    "trials",
]

DRAW = """
from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.loss_curve import loss_figure
from lightning_weightwatch.views.png import pixels
pixels(loss_figure(diagnose([3.0, 2.0, 1.0], [3.0, 2.0, 2.5]), "val_loss"))
"""

RUN_A_TRIAL = """
from torch import nn
from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.trials.trying import try_pruning, try_quantization
from lightning_weightwatch.weights.description import describe_weights
model = nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40))
analyze(model).summary()
describe_weights(model).records()
try_quantization(model, lambda _: {"loss": 1.0})
try_pruning(model, lambda _: {"loss": 1.0}, method=("magnitude", "wanda"))
"""

HABITS = """
import logging, warnings, os
import numpy, torch
def state():
    root = logging.getLogger()
    return (root.level, list(root.handlers), list(warnings.filters), torch.get_num_threads(),
            torch.get_rng_state().tolist(), repr(numpy.random.get_state(legacy=False)),
            dict(os.environ))
before = state()
{}
print(*(["changed"] if state() != before else []))
"""


def modules_of(rooms: list[str]) -> list[str]:
    """The dotted paths of the modules of some rooms."""
    paths = [path for room in rooms for path in (PACKAGE / room).rglob("*.py")]
    paths += [PACKAGE / f"{room}.py" for room in rooms if (PACKAGE / f"{room}.py").exists()]
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths]
    return sorted(".".join(part for part in path if part != "__init__") for path in parts)


def printed_by(code: str) -> set[str]:
    # threadpoolctl sets KMP_DUPLICATE_LIB_OK when imported. Inherited from this process, in which
    # other tests have imported it, that would hide that the code does so too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def loaded_by(code: str, names: list[str]) -> set[str]:
    """Which of some packages a piece of code loads into a fresh interpreter."""
    return printed_by(f"{code}\nimport sys\nprint(*(n for n in {names} if n in sys.modules))")


def test_all_rooms_are_known_here() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py"}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*BELOW_VIEWS, "__init__", "__main__", "views", "callbacks", "cli"}


def test_the_rooms_below_the_views_work_with_tensors_alone() -> None:
    imports = "\n".join(f"import {module}" for module in modules_of(BELOW_VIEWS))
    assert loaded_by(f"{imports}\n{RUN_A_TRIAL}", ABOVE_TENSORS) == set()


def test_the_views_load_matplotlib_to_draw_and_pyplot_never() -> None:
    imports = "\n".join(f"import {module}" for module in modules_of(["views"]))
    assert loaded_by(imports, ABOVE_TENSORS) == set()
    names = [*ABOVE_TENSORS, "matplotlib.pyplot"]
    assert loaded_by(DRAW, names) == {"matplotlib"}


def test_the_check_can_fail() -> None:
    assert loaded_by("import matplotlib", ABOVE_TENSORS) == {"matplotlib"}
    assert printed_by(HABITS.format("torch.manual_seed(1)")) == {"changed"}


@pytest.mark.parametrize("rooms", [BELOW_VIEWS, ["views"]], ids=["below the views", "views"])
def test_no_import_leaves_a_trace_in_the_process(rooms: list[str]) -> None:
    imports = "\n".join(f"import {module}" for module in modules_of(rooms))
    assert printed_by(HABITS.format(imports)) == set()


def test_importing_the_callbacks_seeds_and_logs_nothing_of_ours() -> None:
    imports = "\n".join(f"import {module}" for module in modules_of(["callbacks"]))
    before_it_lightning = f"import lightning.pytorch, matplotlib, rich\n{HABITS.format(imports)}"
    assert printed_by(before_it_lightning) == set()
