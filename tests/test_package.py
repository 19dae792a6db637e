"""Importing the package costs nothing, and every name that it promises is there."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lightning_weightwatch

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "lightning", "pytorch_lightning", "numpy", "matplotlib", "tensorboard", "rich"]


def heavy_imports(statement: str) -> set[str]:
    """Which of the heavy packages a statement loads into a fresh interpreter."""
    report = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert heavy_imports("import lightning_weightwatch; dir(lightning_weightwatch)") == set()


def test_using_a_name_of_it_does_so_that_the_check_above_can_fail() -> None:
    found = heavy_imports("from lightning_weightwatch import WeightHistogram")
    assert {"torch", "lightning", "numpy"} <= found


@pytest.mark.parametrize("name", lightning_weightwatch.__all__)
def test_every_public_name_is_there_under_its_own_name(name: str) -> None:
    found = getattr(lightning_weightwatch, name)
    assert found.__name__ == name
    assert found.__module__.startswith("lightning_weightwatch.")
    assert getattr(import_module(found.__module__), name) is found
    assert found.__doc__


def test_a_star_import_brings_the_public_names_and_no_other() -> None:
    names: dict[str, object] = {}
    exec("from lightning_weightwatch import *", names)
    names.pop("__builtins__")
    assert sorted(names) == sorted(lightning_weightwatch.__all__)


def test_dir_lists_the_public_names_and_the_version() -> None:
    assert sorted([*lightning_weightwatch.__all__, "__version__"]) == dir(lightning_weightwatch)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'lightning_weightwatch' has no attribute 'Nothing'"):
        _ = lightning_weightwatch.Nothing
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from lightning_weightwatch import Nothing")


def test_the_version_is_that_of_the_project_file() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (version,) = [line.split('"')[1] for line in lines if line.startswith("version = ")]
    assert lightning_weightwatch.__version__ == version
