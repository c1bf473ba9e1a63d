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
    from gpt2cost.calibration.calibrate import calibrate
    from gpt2cost.calibration.forms import Calibrated
    from gpt2cost.device.catalog import change_hardware, list_hardware, load_hardware
    from gpt2cost.device.hardware import Hardware
    from gpt2cost.measure.records import read_records
    from gpt2cost.measure.score import Validation, validate
    from gpt2cost.prediction.capacity import Capacity, capacity
    from gpt2cost.prediction.compare import Comparison, compare
    from gpt2cost.prediction.generate import Generation, generate
    from gpt2cost.prediction.model_tree import Tree, tree
    from gpt2cost.prediction.one_kernel import KernelLatency, kernel_latency
    from gpt2cost.prediction.one_step import StepExplanation, explain_step
    from gpt2cost.prediction.predict import MemoryUse, Phase, Prediction, Totals, predict
    from gpt2cost.prediction.service import Service, service
    from gpt2cost.prediction.sweep import Sweep, sweep
    from gpt2cost.prediction.train import Training, train
    from gpt2cost.prediction.train_compare import TrainComparison, compare_training
    from gpt2cost.prediction.train_sweep import TrainSweep, sweep_training
    from gpt2cost.table.config import Model, change_model, list_models, load_model

_HOMES = {
    "calibration.calibrate": ("calibrate",),
    "calibration.forms": ("Calibrated",),
    "device.catalog": ("change_hardware", "list_hardware", "load_hardware"),
    "device.hardware": ("Hardware",),
    "measure.records": ("read_records",),
    "measure.score": ("Validation", "validate"),
    "prediction.capacity": ("Capacity", "capacity"),
    "prediction.compare": ("Comparison", "compare"),
    "prediction.generate": ("Generation", "generate"),
    "prediction.model_tree": ("Tree", "tree"),
    "prediction.one_kernel": ("KernelLatency", "kernel_latency"),
    "prediction.one_step": ("StepExplanation", "explain_step"),
    "prediction.predict": ("MemoryUse", "Phase", "Prediction", "Totals", "predict"),
    "prediction.service": ("Service", "service"),
    "prediction.sweep": ("Sweep", "sweep"),
    "prediction.train": ("Training", "train"),
    "prediction.train_compare": ("TrainComparison", "compare_training"),
    "prediction.train_sweep": ("TrainSweep", "sweep_training"),
    "table.config": ("Model", "change_model", "list_models", "load_model"),
}
"""A module -> the names that it offers. Each is imported when one of them is first asked for."""

__all__ = [
    "Calibrated", "Capacity", "Comparison", "Generation", "Gpt2CostError", "Hardware", "InputError",
    "KernelLatency", "MemoryUse", "Model", "Phase", "Prediction", "Service", "StepExplanation", "Sweep", "Totals",
    "TrainComparison", "TrainSweep", "Training", "Tree", "Validation", "__version__", "calibrate", "capacity",
    "change_hardware", "change_model", "compare", "compare_training", "explain_step", "generate", "kernel_latency",
    "list_hardware", "list_models", "load_hardware", "load_model", "predict", "read_records", "service", "sweep",
    "sweep_training", "train", "tree", "validate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"gpt2cost.{module}"), name)
    raise AttributeError(f"module 'gpt2cost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
