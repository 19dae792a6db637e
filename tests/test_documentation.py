"""The README and the site name what there is, and every block of code in them runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_weightwatch
from lightning_weightwatch.callbacks.keys import KeyedCallback

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in [README, *PAGES]}
PUBLIC = [getattr(lightning_weightwatch, name) for name in lightning_weightwatch.__all__]
CALLBACKS: list[type[KeyedCallback]] = [public for public in PUBLIC if isinstance(public, type)]
EVERY_CALLBACK = pytest.mark.parametrize("callback", CALLBACKS, ids=lambda found: found.__name__)

# A key or a tag with the default prefix; not a folder of lightning_weightwatch or the like.
TAG = re.compile(r"(?<![\w-])weightwatch(?:-\w+)?/\w+(?:\.\w+)*")
# The variant in a key of a trial.
VARIANT = re.compile(r"(?<=/quantization_)int\d(?=_)|(?<=/pruning_)pruned\d+(?=_)")
# A row of a table of keys: what stands in the key's cell, and the rest.
ROW = re.compile(r"^ *\|(?:[^|\n]*\|)? `(weightwatch/\w+)` +\|(.*)$", re.MULTILINE)


def documents_with(words: str) -> pytest.MarkDecorator:
    """README and pages that hold these words."""
    found = [path for path, text in TEXTS.items() if words in text]
    return pytest.mark.parametrize("document", found, ids=lambda path: str(path.relative_to(ROOT)))


class Model(L.LightningModule):
    """40 eigenvalues in `net.0`, which the examples watch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 3))

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Data(L.LightningDataModule):
    """Two batches."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        features = torch.randn(32, 40)
        return DataLoader(TensorDataset(features, features[:, :3].argmax(1)), batch_size=16)

    val_dataloader = train_dataloader


def blocks(document: Path, language: str) -> list[str]:
    block = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return block.findall(TEXTS[document])


def tags(text: str) -> set[str]:
    return set(TAG.findall(text))


def own_tags(callback: type[KeyedCallback]) -> set[str]:
    """What the docstring says that a callback logs."""
    return tags(inspect.getdoc(callback) or "")


def rows(text: str) -> Iterator[tuple[str, bool]]:
    """The keys in the tables of a text, and whether they are called an alarm."""
    return ((key, "(alarm)" in meaning) for key, meaning in ROW.findall(text))


def kind_of(key: str) -> str:
    """A key, and of all variants of a trial the same: one row is there for all of them."""
    return VARIANT.sub("*", key)


@documents_with("```python")
def test_the_python_blocks_run_one_after_another(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"model": Model(), "datamodule": Data()}
    for number, block in enumerate(blocks(document, "python"), 1):
        exec(compile(block, f"{document.name}, Python block {number}", "exec"), names)


@documents_with("```yaml")
def test_the_yaml_blocks_configure_a_trainer(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fit.py"])
    for block in blocks(document, "yaml"):
        Path("config.yaml").write_text(block)
        trainer = LightningCLI(
            Model, Data, args=["--config", "config.yaml"], run=False, seed_everything_default=False
        ).trainer
        found = [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
        assert set(CALLBACKS) <= set(found)


def test_the_examples_of_the_readme_are_among_the_blocks() -> None:
    training, analysis = blocks(README, "python")
    assert "trainer.fit(model, datamodule)" in training
    assert "analyze(model)" in analysis


@documents_with("weightwatch/")
def test_every_key_and_tag_named_is_one_of_a_callback(document: Path) -> None:
    known = {tag for callback in CALLBACKS for tag in own_tags(callback)}
    assert tags(TEXTS[document]) <= known


def test_a_misspelt_key_is_noticed() -> None:
    text = "`weightwatch/alpha_minn`, {weightwatch-alpha/007_net.0:.2f}, lightning_weightwatch/x"
    assert tags(text) == {"weightwatch/alpha_minn", "weightwatch-alpha/007_net.0"}


@EVERY_CALLBACK
def test_every_documented_tag_of_a_callback_is_on_the_site(callback: type[KeyedCallback]) -> None:
    on_the_site = {tag for page in PAGES for tag in tags(TEXTS[page])}
    assert own_tags(callback) <= on_the_site


@EVERY_CALLBACK
def test_every_table_has_a_row_for_every_key_and_marks_the_alarms(
    callback: type[KeyedCallback],
) -> None:
    keys = callback().logged_keys
    expected = {kind_of(key): key.partition("/")[2] in callback.ALARMS for key in keys}
    titled = re.compile(rf"# .*\b{callback.__name__}\b")
    (page,) = (TEXTS[path] for path in PAGES if titled.match(TEXTS[path]))
    for text in (TEXTS[README], page, inspect.getdoc(callback) or ""):
        found = dict(rows(text))
        assert expected.items() <= {kind_of(key): alarm for key, alarm in found.items()}.items()


def test_the_readme_has_no_row_for_anything_else() -> None:
    known = {key for callback in CALLBACKS for key in callback().logged_keys}
    named = {key for key, _ in rows(TEXTS[README])}
    assert named <= known
    assert set(map(kind_of, named)) == set(map(kind_of, known))


@documents_with("make ")
def test_every_make_target_named_is_there(document: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)\b(?=`|\n```)", TEXTS[document])) <= targets


def test_relative_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXTS[README])
    assert "docs/index.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


@documents_with("://")
def test_no_other_host_than_that_of_cpu_torch_is_named(document: Path) -> None:
    hosts = set(re.findall(r"\w+://[^\s)\"'`]+", TEXTS[document]))
    assert hosts <= {"https://download.pytorch.org/whl/cpu"}
