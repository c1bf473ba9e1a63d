"""A device: the frozen dataclasses that a hardware file is read as, in SI units.

There is one file per device, in the shipped folder or in the user's own. Two rules keep constants in one place:

* A section `model`, `host`, `launch` or `interconnect` may be borrowed whole from a shipped device, with overrides
  beside it: `model: {like: a100-sxm-80gb, gemm: {fp16: {launch: 3 us}}}`. `Hardware.borrowed` records it. Mappings
  inside are laid over the borrowed ones key by key, unless they say `like: none`.
* A file may hold `variants`, a mapping from a variant's name to what differs from the file's own device. A variant does
  not inherit aliases or evidence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from gpt2cost.device.cpu_constants import CpuConstants
from gpt2cost.device.dtypes import DTYPES, HALF_DTYPES, HALF_FAMILY, Dtype
from gpt2cost.device.gpu_constants import POSITIVE, MachineConstants
from gpt2cost.device.interconnect import Interconnect
from gpt2cost.errors import InputError, echo
from gpt2cost.result import Result
from gpt2cost.table.options import KERNEL_VARIANTS, Attn, Runtime
from gpt2cost.units import unit_of

BOARD_POWER = "board_power"
"""The key of `Hardware.board_power_w` in a file."""


@dataclass(frozen=True)
class Memory:
    """DRAM and last-level cache. Rates are peaks; `l2_bandwidth` is that of reads, measured where known.

    `capacity`: what the driver reports. `reserve`: what a process needs beside its tensors: on a GPU the context and
    the libraries' workspaces. `gpu_share`: how much of the capacity the GPU may have where it shares it with the CPU.
    """

    capacity_bytes: float
    bandwidth_bytes_per_s: float
    l2_bytes: float
    l2_bandwidth_bytes_per_s: float
    reserve_bytes: float = 0.0
    gpu_share: float = field(default=1.0, metadata={"bound": "fraction"})

    @property
    def usable_bytes(self) -> float:
        """What weights, KV cache and activations may take together."""
        return max(0.0, self.gpu_share * self.capacity_bytes - self.reserve_bytes)


@dataclass(frozen=True)
class Compute:
    """`units`: SMs or GPU cores. `peak`: dtype -> dense rate, fp32 accumulation; what is absent is not supported.

    `sustained`: what is left of the rate of tensor cores, in products and attention, after minutes of load, when power
    and heat lower the clock; `sustained_fp32`: of the rate of products in fp32 on other units.
    """

    units: int = field(metadata=POSITIVE)
    peak_flop_per_s: dict[str, float] = field(metadata={"keys": DTYPES, "required": ("fp32",)})
    sustained: float = field(default=1.0, metadata={"bound": "fraction"})
    sustained_fp32: float = field(default=1.0, metadata={"bound": "fraction"})

    def scaled(self, factor: float) -> Compute:
        """The same units at `factor` times the rate."""
        peaks = {dtype: factor * peak for dtype, peak in self.peak_flop_per_s.items()}
        return dataclasses.replace(self, peak_flop_per_s=peaks)


@dataclass(frozen=True)
class Launch:
    """Shortest time of one kernel on a busy device: back to back in a stream, and as a node of a CUDA graph.

    `gap`: between a kernel and a different one in a pass, which kernels that are repeated to be timed do not show.
    """

    stream_floor_s: float
    graph_floor_s: float
    gap_s: float = 0.0


@dataclass(frozen=True)
class Host:
    """Host time of one thing in eager mode, on the CPU that `cpu` states.

    `synchronous`: the host runs the kernels itself, as a CPU does: no queue, and every cost adds up.
    `op`: an op that launches a kernel. `module`: the call of a linear or layer-norm module. `view`: a view-type op.
    `call`: the call of a module that computes nothing, such as dropout in inference. `launch_latency`: from issue to
    the kernel's start. `sync`: one wait for the device. `graph_replay`: one replay of a CUDA graph, or one entry into
    compiled code. `compiled_op`: a kernel in compiled code.
    """

    cpu: str
    op_s: float
    module_s: float
    view_s: float
    call_s: float
    launch_latency_s: float
    sync_s: float
    graph_replay_s: float
    compiled_op_s: float
    synchronous: bool = False

    def scaled(self, factor: float) -> Host:
        """A host that takes `factor` times as long for everything."""
        seconds = (field.name for field in dataclasses.fields(self) if unit_of(field.name)[1] == "s")
        return dataclasses.replace(self, **{name: factor * getattr(self, name) for name in seconds})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A measured latency that this device's predictions are judged by.

    `kernels` names kernel variants where the measured code differs from ours, such as `{scale: div, mask: where}`.
    `config`: keys of the model's config that differ, such as `{n_layer: 1, n_head: 8}`. `part`: the whole model, all
    but the lm_head, one layer, or a layer's attention. `timed`: a pass from start to end; the device's time of its
    kernels, summed; or a turn of HuggingFace's `generate` (greedy), the pass with what runs around it. `box`: the
    machine; rows of one box share its host. `fitted`: which constants were fitted to this very pass, if any.
    """

    source: str
    model: str
    batch: int = field(metadata=POSITIVE)
    seq: int = field(metadata=POSITIVE)
    cache: int = field(default=0, metadata={"bound": "natural"})
    dtype: Dtype
    attn: Attn
    use_cache: bool = True
    runtime: Runtime = "eager"
    latency_s: float
    kernels: dict[str, str] = field(default_factory=dict, metadata={"keys": tuple(KERNEL_VARIANTS)})
    config: dict[str, int] = field(default_factory=dict)
    part: Literal["model", "trunk", "block", "attention"] = "model"
    timed: Literal["pass", "kernels", "turn"] = "pass"
    box: str = ""
    fitted: str = ""
    note: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is a whole pass, alone or in `generate`: no part of a model, and no sum of kernels."""
        return self.part in ("model", "trunk") and self.timed != "kernels"

    def __post_init__(self) -> None:
        for name, op in self.kernels.items():
            if op not in KERNEL_VARIANTS[name]:
                raise InputError(f"kernels.{name}: expected one of {', '.join(KERNEL_VARIANTS[name])}, got {echo(op)}")
        if not self.use_cache and self.cache:
            raise InputError("cache: expected 0 where use_cache is false")
        if self.timed == "turn" and (self.part != "model" or self.runtime != "eager"):
            raise InputError("timed: a turn of generate is predicted of the whole model, run eagerly")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """When and how `gpt2cost calibrate` measured a machine, and how well the fit reproduces what it measured.

    `residuals`: kind of kernel -> median of |log(predicted / measured)|. `noise`: by how much two halves of
    the measurements of one kernel differ, as a median; None if each was measured once. `reference_s`: what a product
    took that is always the same, to tell the machine's speed at another time from its speed then.
    """

    date: str
    software: str  # versions
    clock: str  # of the processor and its memory, and the threads or the power limit
    count: int = field(metadata=POSITIVE)  # kernels measured
    noise: float | None = field(default=None, metadata={"bound": "natural"})
    reference_s: float | None = None
    residuals: dict[str, float]


@dataclass(frozen=True, kw_only=True, repr=False)
class Hardware(Result):
    """One device. All quantities in SI units; FLOP rates count one fused multiply-add as 2.

    `board_power_w`: what it may draw at most for longer than moments, by its vendor or by the limit that its driver
    holds; of a Mac, the whole machine. None where it is not known.
    `provenance`: path of a constant or section -> where it comes from. `borrowed`: section -> the device it was taken
    from. `variants`: names of the other devices in this file. `changes`: path -> what `change_hardware` set it to,
    of the device that `unchanged` is.
    """

    shown_by = "catalog"

    name: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    vendor: Literal["nvidia", "apple", "cpu"]
    architecture: str
    compute_capability: float | None = field(default=None, metadata=POSITIVE)
    board_power_w: float | None = None
    memory: Memory
    compute: Compute
    launch: Launch
    host: Host
    model: MachineConstants | CpuConstants
    interconnect: Interconnect | None = None
    calibration: Calibration | None = None
    evidence: tuple[Evidence, ...] = ()
    provenance: dict[str, str]
    borrowed: dict[str, str] = field(default_factory=dict, metadata={"derived": True})
    variants: tuple[str, ...] = field(default=(), metadata={"derived": True})
    changes: dict[str, str | float] = field(default_factory=dict, metadata={"derived": True})
    unchanged: Hardware | None = field(default=None, metadata={"derived": True})

    def __post_init__(self) -> None:
        if not all(name.strip() for name in self.names):
            raise InputError("name and aliases must not be empty")
        if self.vendor == "nvidia" and self.compute_capability is None:
            raise InputError("an nvidia device needs compute_capability, such as 8.0")
        for row in self.evidence:
            if row.dtype not in self.compute.peak_flop_per_s:
                raise InputError(f"evidence in {row.dtype}, for which compute.peak has no rate")
            if row.attn == "flash_attention_2" and not self.has_flash_attention(row.dtype):
                raise InputError(f"evidence with flash_attention_2 in {row.dtype}, which the device cannot run")
        is_cpu = self.vendor == "cpu"
        if isinstance(self.model, CpuConstants) != is_cpu or self.host.synchronous != is_cpu:
            raise InputError("vendor: cpu goes with a CPU's model (products, kinds, ...) and host.synchronous: true")
        if lacking := [dtype for dtype in self.compute.peak_flop_per_s if not self.model.has_products(dtype)]:
            raise InputError(f"model has no products in {', '.join(lacking)}, for which compute.peak has a rate")

    def __hash__(self) -> int:
        """By name, since mappings inside have no hash; equality is by value."""
        return hash(self.name)

    @property
    def gpu_model(self) -> MachineConstants:
        """The constants of a GPU."""
        assert isinstance(self.model, MachineConstants)
        return self.model

    @property
    def cpu_model(self) -> CpuConstants:
        """The constants of a CPU."""
        assert isinstance(self.model, CpuConstants)
        return self.model

    def has_flash_attention(self, dtype: str) -> bool:
        """Whether flash attention's kernels run: in 16 bit, on NVIDIA devices from sm80 on."""
        return dtype in HALF_DTYPES and (self.compute_capability or 0) >= 8

    def ridge_flop_per_byte(self, dtype: str) -> float:
        """The ridge point: the FLOPs per byte at which arithmetic at the dtype's peak and traffic at DRAM's take equal
        time. Work of fewer is on DRAM's side, work of more on the arithmetic's."""
        return self.compute.peak_flop_per_s[dtype] / self.memory.bandwidth_bytes_per_s

    @property
    def under_load(self) -> Hardware:
        """The device after minutes of load, as training has it: at `compute.sustained` of its rates."""
        share, fp32 = self.compute.sustained, self.compute.sustained_fp32
        if share == fp32 == 1.0 or not isinstance(self.model, MachineConstants):
            return self
        peaks = {
            dtype: peak * (share if dtype in HALF_FAMILY else fp32)
            for dtype, peak in self.compute.peak_flop_per_s.items()
        }
        compute = dataclasses.replace(self.compute, peak_flop_per_s=peaks)
        return dataclasses.replace(self, compute=compute, model=self.model.with_attention_at(share))

    @property
    def changes_of_time(self) -> set[str]:
        """The changed paths that say something of seconds: a board's power says nothing of them."""
        return set(self.changes) - {BOARD_POWER}

    @property
    def host_factor(self) -> float:
        """How many times the file's host times a what-if assumes."""
        return float(self.changes.get("host_factor", 1.0))

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name and the aliases."""
        return (self.name, *self.aliases)
