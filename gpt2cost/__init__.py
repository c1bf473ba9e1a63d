"""gpt2cost: predict the FLOPs, bytes and latency of GPT-2-class models, kernel by kernel.

>>> import gpt2cost
>>> prediction = gpt2cost.predict(model="gpt2", gpu="a100", batch=8, seq=512)
>>> prediction.phases[0].totals.flops
1091199566336
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpt2cost.device.catalog import change_hardware, list_hardware, load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import Gpt2CostError, InputError
from gpt2cost.prediction.one_kernel import KernelLatency, kernel_latency
from gpt2cost.prediction.predict import Prediction, predict
from gpt2cost.table.config import Model, change_model, load_model
from gpt2cost.version import __version__

if TYPE_CHECKING:
    from gpt2cost.prediction.capacity import fit
    from gpt2cost.prediction.compare import compare
    from gpt2cost.prediction.generate import Generation, generate
    from gpt2cost.prediction.sweep import sweep

# Loaded when first asked for: a prediction does without them.
_LATER = {
    "Generation": "generate",
    "compare": "compare",
    "fit": "capacity",
    "generate": "generate",
    "sweep": "sweep",
}

__all__ = [
    "Generation",
    "Gpt2CostError",
    "Hardware",
    "InputError",
    "KernelLatency",
    "Model",
    "Prediction",
    "__version__",
    "change_hardware",
    "change_model",
    "compare",
    "fit",
    "generate",
    "kernel_latency",
    "list_hardware",
    "load_hardware",
    "load_model",
    "predict",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"gpt2cost.prediction.{_LATER[name]}"), name)
    raise AttributeError(f"module 'gpt2cost' has no attribute {name!r}")
