"""A file of models as a person has it, to be counted by the command."""

import sys
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor, nn

print("loading the models")


@dataclass
class Size:
    width: int


class Net(nn.Module):
    """6 · width + 3 weights; 12 · width FLOPs a sample."""

    def __init__(self, width: int, act: str = "relu", *, bias: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive,\nnot {width}")
        self.body = nn.Sequential(
            nn.Linear(2, width, bias=bias), nn.ReLU() if act == "relu" else nn.Tanh()
        )
        self.head = nn.Linear(width, 3, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out if mask is None else out * mask


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        assert ids.dtype == torch.int64
        out: Tensor = self.head(self.embed(ids) * mask[..., None])
        return out


class Batch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.fc(batch["x"])
        return out


class Lit(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fc = nn.Linear(4, 2, bias=False)
        self.example_input_array = torch.zeros(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


class Steps(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2, bias=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.fc(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss


class Asks(nn.Module):
    """It wants to see values, in its constructor and in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2, bias=False)
        self.scale = self.fc.weight.abs().max().item()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out if x.sum().item() < 1e9 else out / self.scale


class Fault(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise LookupError("no \x1b[31m[red]luck[/red]\nat all")


class Faulty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), Fault()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.fft.fft(x).real
        return out


class Huge(nn.Module):
    """4 TB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1_000_000, 1_000_000, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


class Nothing(nn.Module):
    """It has no forward."""


def deep(blocks: int = 60) -> nn.Module:
    """5 modules a block, and the block."""
    body = [nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))) for _ in range(blocks)]
    return nn.Sequential(*body)


def hostile() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    for name in ("[red]a[/red]", "=cmd|<b>", "\x1b[31m\u202eb"):
        model.add_module(name, nn.Linear(4, 4))
    return model


def table() -> dict[str, int]:
    return {"a": 1}


def leaves() -> None:
    sys.exit("gone")


ready = nn.Linear(4, 4)
number = 3
