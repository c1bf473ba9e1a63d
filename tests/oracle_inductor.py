"""What Inductor launches on an NVIDIA GPU, on a machine that has none: its own schedule of the real model.

The model is traced on the CPU. The graph that Inductor is given is moved to a CUDA device of fake tensors, and compiled
up to the list of kernels that its scheduler has merged; no code is made of it, so neither a GPU nor Triton is needed.
Fused attention is the kernel that a GPU would run: see `oracle.FusedAttention`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo.device_interface
import torch._inductor.compile_fx
import torch._inductor.scheduler
import transformers
from oracle import DTYPES, FusedAttention
from torch._inductor import config as inductor_config
from torch._inductor.ir import FallbackKernel
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode, Scheduler
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from transformers.cache_utils import DynamicCache, StaticCache

DEVICE = torch.device("cuda:0")
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32, total_memory=80 * 2**30,
    shared_memory_per_block_optin=232448, L2_cache_size=50 * 2**20, gcnArchName="",
)  # fmt: skip
"""What Inductor asks of a device."""


@dataclass(frozen=True)
class Launched:
    """A kernel of the schedule: the ops that are merged in it, or the one of a library's, and the bytes it writes."""

    ops: frozenset[str]
    is_library: bool
    written: int


class _LeftError(Exception):
    """How the compiler is left once the kernels are known."""


def launches(
    config: transformers.GPT2Config,
    attn: str,
    batch: int,
    seq: int,
    cache: int = 0,
    use_cache: bool = True,
    padded: bool = False,
    static: int = 0,
    dtype: str = "fp16",
) -> list[Launched]:
    """The kernels of one compiled pass of GPT2LMHeadModel. `static`: the length of a static cache."""
    found: list[Launched] = []
    schedule, compile_inner = Scheduler.__init__, torch._inductor.compile_fx.compile_fx_inner

    def scheduled(self: Any, nodes: Any) -> None:
        schedule(self, nodes)
        found.extend(filter(None, map(_launched, self.nodes)))
        raise _LeftError

    def on_a_gpu(graph: Any, inputs: Any, **keys: Any) -> Any:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        moved = _moved(graph, inputs, mode)
        tracing = torch._guards.tracing(torch._guards.TracingContext(mode))
        with V.set_fake_mode(mode), tracing, _device(), patch.object(Scheduler, "__init__", scheduled):
            return compile_inner(graph, moved, **keys)

    def backend(graph: Any, inputs: Any) -> Any:
        return torch._inductor.compile_fx.compile_fx(graph, inputs, inner_compile=on_a_gpu)

    model = transformers.GPT2LMHeadModel._from_config(config, dtype=DTYPES[dtype], attn_implementation=attn).eval()
    mask = torch.ones(batch, cache + seq, dtype=torch.long) if padded else None
    past = StaticCache(config, static) if static else DynamicCache(config=config) if cache else None
    shape = (batch, config.n_head, cache, config.n_embd // config.n_head)
    for layer in range(config.n_layer if past is not None and cache else 0):
        past.update(torch.zeros(shape, dtype=DTYPES[dtype]), torch.zeros(shape, dtype=DTYPES[dtype]), layer)
    torch._dynamo.reset()
    fused = patch.object(torch.nn.functional, "scaled_dot_product_attention", FusedAttention().fused)
    with torch.no_grad(), fused, inductor_config.patch(force_disable_caches=True):
        try:
            torch.compile(model, backend=backend, dynamic=False, fullgraph=True)(
                torch.zeros(batch, seq, dtype=torch.long), past, use_cache=use_cache, attention_mask=mask
            )
        except Exception as error:
            causes = [error]
            while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
                causes.append(cause)
            if not any(isinstance(cause, _LeftError) for cause in causes):
                raise
    return found


def _moved(graph: Any, inputs: Any, mode: FakeTensorMode) -> list[Any]:
    """The inputs on the device; the graph's constants and shapes are then those of the device too."""
    with mode:
        moved = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE) if isinstance(x, torch.Tensor) else x
            for x in inputs
        ]
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", DEVICE)
    FakeTensorProp(graph, mode=mode).propagate_dont_convert_inputs(*moved)
    graph.recompile()
    return moved


@contextmanager
def _device() -> Iterator[None]:
    """A GPU is asked for its properties, and has them."""
    interface = torch._dynamo.device_interface.CudaInterface
    answers: dict[str, Any] = {
        "get_device_properties": H100, "get_device_capability": (9, 0), "current_device": 0, "set_device": None,
        "_exchange_device": 0, "_maybe_exchange_device": 0,
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch._inductor.scheduler, "has_triton", lambda *_: True))
        for place in (torch.cuda, interface, interface.Worker):
            for name, answer in answers.items():
                if hasattr(place, name):
                    stack.enter_context(patch.object(place, name, lambda *_, answer=answer: answer))
        yield


def _launched(node: Any) -> Launched | None:
    """A node of the schedule, None for one that launches nothing."""
    if isinstance(node, NopKernelSchedulerNode):
        return None
    if isinstance(node, ExternKernelSchedulerNode):
        op = getattr(node.node, "op_overload", None)
        if op is None:  # one of several results of another
            return None
        assert isinstance(node.node, FallbackKernel) or "mm" in str(op)
        return Launched(frozenset({str(op).split(".")[1]}), True, 0)
    own = {part.get_name() for part in node.get_nodes()}
    kept = [
        buffer
        for buffer in node.get_outputs()
        if any(user.get_name() not in own and not user.is_weak for user in buffer.users)
    ]
    origins = {origin for part in node.get_nodes() for origin in part.node.get_origins()}
    ops = frozenset(str(origin.target).split(".")[1] for origin in origins if origin.op == "call_function")
    return Launched(ops, False, sum(int(b.node.get_numel()) * b.node.get_dtype().itemsize for b in kept))
