"""What bitsandbytes' own code launches on a CUDA device, run on a CPU: the oracle of quantised weights.

Its CUDA backend is Python that calls a native library. Here that library is a stand-in that notes what it is asked for,
and the backend's functions take the place of the CPU's, so that the ops, their order and their conditions are those of
the real thing. What the library would have computed is zero.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

import bitsandbytes
import bitsandbytes.cextension
import oracle
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import BitsAndBytesConfig, GPT2Config


class Library:
    """Tells `heard` of the functions that are called, and succeeds."""

    heard: Any = None

    def __getattr__(self, name: str) -> Any:
        def function(*args: object) -> int:
            self.heard(name)
            return 0

        self.__dict__[name] = function
        return function


@functools.cache
def backend() -> tuple[Library, dict[str, Any]]:
    """The stand-in of bitsandbytes' library, and the function of each of its ops on a CUDA device."""
    import bitsandbytes._ops as ops

    library, functions = Library(), {}
    real = ops.register_kernel, bitsandbytes.cextension.lib

    def register(name: str, device: str, *args: Any) -> Any:
        def keep(function: Any) -> Any:
            functions[name.removeprefix("bitsandbytes::")] = function
            return function

        return keep(args[0]) if args else keep

    ops.register_kernel, bitsandbytes.cextension.lib = register, library
    torch._C._cuda_getCurrentRawStream = lambda index: None  # type: ignore[attr-defined]
    try:
        modules = [_loaded(f"bitsandbytes.backends.{name}.ops") for name in ("default", "cuda")]
    finally:
        ops.register_kernel, bitsandbytes.cextension.lib = real
        del torch._C._cuda_getCurrentRawStream  # type: ignore[attr-defined]
    modules[1]._cuda_device_of = lambda tensor: contextlib.nullcontext()
    modules[1].CUBLAS_Context = _NoContext
    return library, {**functions, "module": modules[1]}


def _loaded(name: str) -> Any:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _NoContext:
    @classmethod
    def get_instance(cls) -> _NoContext:
        return cls()

    def get_context(self, device: object) -> None:
        return None


def on_device(monkeypatch: pytest.MonkeyPatch, units: int, capability: float) -> None:
    """Let the backend see a device of so many SMs."""
    sm = divmod(round(10 * capability), 10)
    monkeypatch.setattr(backend()[1]["module"], "_gpu_dispatch_props", lambda index: (units, *sm))
    backend()[1]["module"]._gemm_4bit_use_custom_cuda.cache_clear()


def quantised(config: GPT2Config, folder: Path, dtype: torch.dtype, cls: str = "GPT2LMHeadModel", **keys: Any) -> Any:
    """The real model with random weights, saved and loaded again as bitsandbytes stores it, on the CPU."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    kind = getattr(transformers, cls)
    kind(config).to(dtype).save_pretrained(folder)
    own = BitsAndBytesConfig(**keys)
    model = kind.from_pretrained(folder, dtype=dtype, quantization_config=own, device_map="cpu").eval()
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # it would store the weights in another order
    return model


def held_bytes(model: Any) -> int:
    """The bytes of a model's parameters, buffers and quantisation states, each storage once."""
    found: dict[int, int] = {}

    def hold(tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()

    for tensor in (*model.parameters(), *model.buffers()):
        hold(tensor.data)
        for name in ("CB", "SCB"):
            hold(getattr(tensor, name, None))
        for state in _states(getattr(tensor, "quant_state", None)):
            for value in vars(state).values():
                hold(value)
    for module in model.modules():
        for value in vars(getattr(module, "state", None) or object.__new__(_Nothing)).values():
            hold(value)
    return sum(found.values())


class _Nothing:
    pass


def _states(state: Any) -> Iterator[Any]:
    while state is not None:
        yield state
        state = state.state2


# ---------------------------------------------------------------------------------------------- a pass


@dataclass(frozen=True)
class Launch:
    """One kernel, of torch or of bitsandbytes' library, and the bytes of all of its operands."""

    module: str
    op: str
    moved_bytes: int


class Trace(oracle.Trace):
    """A trace of a model on a CPU, whose quantised layers launch what they would on a CUDA device."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.answer = None
        self.operands_of: list[torch.Tensor] = []
        self.native, self.functions = backend()

    def __enter__(self) -> Any:
        self.native.heard = self.hear
        return super().__enter__()

    def hear(self, name: str) -> None:
        moved = sum(map(oracle.stored_bytes, self.operands_of))
        self.launches.append(Launch(self.stack[-1], name, moved))  # type: ignore[arg-type]
        self.operands_of = []

    def note(self, tensor: torch.Tensor) -> int:
        """Stands in for `data_ptr`, which is asked of each operand of a function of the library."""
        self.operands_of.append(tensor)
        return 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "bitsandbytes":
            before = len(self.launches)
            out = super().__torch_dispatch__(func, types, args, kwargs)
            name = func.overloadpacket.__name__
            if name == "index_put_" and not all(i.numel() for i in args[1] if i is not None):
                # an empty index: torch returns before it launches, but has copied the number to the device and waited
                del self.launches[before:]
                self.syncs += 1
            if name == "to" and out is args[0]:
                del self.launches[before:]
            return out
        with _Again(self), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "data_ptr", lambda tensor: self.note(tensor))
            out = self.functions[func.overloadpacket.__name__](*args, **kwargs)
        return tree_map(lambda made: made.zero_() if isinstance(made, torch.Tensor) else made, out)


class _Again(TorchDispatchMode):
    """What an op of bitsandbytes calls is traced too."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.trace.__torch_dispatch__(func, types, args, kwargs)
