"""See what training does to the weights: callbacks for PyTorch Lightning, and spectral analysis.

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
    from lightning_weightwatch.callbacks.usage import WeightUsageMonitor
    from lightning_weightwatch.callbacks.weights import WeightHistogram
    from lightning_weightwatch.losses.diagnosis import diagnose
    from lightning_weightwatch.spectral.analysis import analyze
    from lightning_weightwatch.spectral.power_law import fit_power_law
    from lightning_weightwatch.trials.quantized_model import quantize
    from lightning_weightwatch.trials.trying import try_pruning, try_quantization
    from lightning_weightwatch.usage.flops.count import count_flops
    from lightning_weightwatch.usage.measurement import measure_usage
    from lightning_weightwatch.views.network.figure import draw_network
    from lightning_weightwatch.weights.description import describe_weights

__all__ = [
    "OverfittingMonitor",
    "PruningTrial",
    "QuantizationTrial",
    "SpectralMonitor",
    "WeightHistogram",
    "WeightUsageMonitor",
    "analyze",
    "count_flops",
    "describe_weights",
    "diagnose",
    "draw_network",
    "fit_power_law",
    "measure_usage",
    "quantize",
    "try_pruning",
    "try_quantization",
    "weightwatch",
]

_HOME = {
    "OverfittingMonitor": "callbacks.losses",
    "PruningTrial": "callbacks.pruning",
    "QuantizationTrial": "callbacks.quantization",
    "SpectralMonitor": "callbacks.spectral",
    "WeightHistogram": "callbacks.weights",
    "WeightUsageMonitor": "callbacks.usage",
    "analyze": "spectral.analysis",
    "count_flops": "usage.flops.count",
    "describe_weights": "weights.description",
    "diagnose": "losses.diagnosis",
    "draw_network": "views.network.figure",
    "fit_power_law": "spectral.power_law",
    "measure_usage": "usage.measurement",
    "quantize": "trials.quantized_model",
    "try_pruning": "trials.trying",
    "try_quantization": "trials.trying",
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
