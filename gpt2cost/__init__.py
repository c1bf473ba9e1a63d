"""gpt2cost: predict the FLOPs, bytes and latency of GPT-2-class models, kernel by kernel.

>>> import gpt2cost
>>> prediction = gpt2cost.predict("gpt2", "a100", batch=8, seq=512)
>>> prediction.prefill.totals.flops
1091199566336
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpt2cost.errors import Gpt2CostError, InputError
from gpt2cost.version import __version__

if TYPE_CHECKING:
    from gpt2cost.calibration.calibrate import Calibrated, calibrate
    from gpt2cost.device.catalog import change_hardware, list_hardware, load_hardware
    from gpt2cost.device.hardware import Hardware
    from gpt2cost.measure.records import read_records
    from gpt2cost.measure.score import Validation, validate
    from gpt2cost.prediction.capacity import Capacity, capacity
    from gpt2cost.prediction.compare import Comparison, compare
    from gpt2cost.prediction.generate import Generation, generate
    from gpt2cost.prediction.one_kernel import KernelLatency, kernel_latency
    from gpt2cost.prediction.predict import MemoryUse, Phase, Prediction, Totals, predict
    from gpt2cost.prediction.sweep import Sweep, sweep
    from gpt2cost.table.config import Model, change_model, list_models, load_model

# Each name's module, imported when the name is first asked for.
_HOMES = {
    "Calibrated": "calibration.calibrate",
    "Capacity": "prediction.capacity",
    "Comparison": "prediction.compare",
    "Generation": "prediction.generate",
    "Hardware": "device.hardware",
    "KernelLatency": "prediction.one_kernel",
    "MemoryUse": "prediction.predict",
    "Model": "table.config",
    "Phase": "prediction.predict",
    "Prediction": "prediction.predict",
    "Sweep": "prediction.sweep",
    "Totals": "prediction.predict",
    "Validation": "measure.score",
    "calibrate": "calibration.calibrate",
    "capacity": "prediction.capacity",
    "change_hardware": "device.catalog",
    "change_model": "table.config",
    "compare": "prediction.compare",
    "generate": "prediction.generate",
    "kernel_latency": "prediction.one_kernel",
    "list_hardware": "device.catalog",
    "list_models": "table.config",
    "load_hardware": "device.catalog",
    "load_model": "table.config",
    "predict": "prediction.predict",
    "read_records": "measure.records",
    "sweep": "prediction.sweep",
    "validate": "measure.score",
}

__all__ = [
    "Calibrated",
    "Capacity",
    "Comparison",
    "Generation",
    "Gpt2CostError",
    "Hardware",
    "InputError",
    "KernelLatency",
    "MemoryUse",
    "Model",
    "Phase",
    "Prediction",
    "Sweep",
    "Totals",
    "Validation",
    "__version__",
    "calibrate",
    "capacity",
    "change_hardware",
    "change_model",
    "compare",
    "generate",
    "kernel_latency",
    "list_hardware",
    "list_models",
    "load_hardware",
    "load_model",
    "predict",
    "read_records",
    "sweep",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"gpt2cost.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gpt2cost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
