"""See what training does to the weights: callbacks for PyTorch Lightning.

The names below are loaded on first use (PEP 562), so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_weightwatch.callbacks.defaults import weightwatch
    from lightning_weightwatch.callbacks.losses import OverfittingMonitor
    from lightning_weightwatch.callbacks.pruning import PruningTrial
    from lightning_weightwatch.callbacks.quantization import QuantizationTrial
    from lightning_weightwatch.callbacks.spectral import SpectralMonitor
    from lightning_weightwatch.callbacks.weights import WeightHistogram

__all__ = [
    "OverfittingMonitor",
    "PruningTrial",
    "QuantizationTrial",
    "SpectralMonitor",
    "WeightHistogram",
    "weightwatch",
]

_HOME = {
    "OverfittingMonitor": "callbacks.losses",
    "PruningTrial": "callbacks.pruning",
    "QuantizationTrial": "callbacks.quantization",
    "SpectralMonitor": "callbacks.spectral",
    "WeightHistogram": "callbacks.weights",
    "weightwatch": "callbacks.defaults",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("lightning-weightwatch")
        except PackageNotFoundError as missing:
            raise AttributeError(f"{__name__} is not installed, so it has no version") from missing
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
