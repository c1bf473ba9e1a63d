"""Timing on the machine at hand, against its noise: warm-up, medians, and a reference that shows drift. Needs torch."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from gpt2cost.checks import check_size
from gpt2cost.errors import InputError
from gpt2cost.measure.plan import MAX_THREADS
from gpt2cost.measure.pool import WINDOWS, Run

SAMPLES = 3
"""Fewest samples of a kernel in one sweep."""
SAMPLE_S = 0.0005
"""A sample repeats a short case for this long."""
CASE_S = 0.006
"""A kernel is sampled for this long, if that gives more than `SAMPLES`."""
GRAPH_CALLS = 20
"""Fewest calls in a CUDA graph."""
COLD = 3
"""Weights are cold where those of a graph exceed the L2 cache by this factor."""
SETTLING_BYTES = 2**25 - 2**16
"""A block just below 32 MiB. Once one like it has been freed, glibc keeps 64 MiB of free memory for the next outputs,
the most that it does; before, it hands back what a layer frees, and how much depends on what ran before."""
Tell: TypeAlias = Callable[[str], None]
"""What is called with progress, and with nothing at the end."""
Warn: TypeAlias = Callable[[Iterable[str]], None]
"""What is called with lines on what disturbs or failed."""


class Bench:
    """One device. `device` is `cpu`, `cuda` or `mps`; raises `InputError` where torch cannot use it, and for a number
    of threads that is none."""

    def __init__(self, device: str, threads: int | None = None) -> None:
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[device]:
            usable = ", ".join(name for name, there in available.items() if there)
            raise InputError(f"device: torch finds no {device} on this machine; it has {usable}")
        if threads is not None:
            torch.set_num_threads(check_size("threads", threads, 1, MAX_THREADS))
        self.device = device
        self._operands = torch.randn(256, 768, device=device), torch.randn(768, 768, device=device)
        torch.backends.cuda.matmul.allow_tf32 = False
        if device == "cpu":
            torch.empty(SETTLING_BYTES, dtype=torch.uint8)

    def sync(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        elif self.device == "mps":
            torch.mps.synchronize()

    @property
    def memory_bytes(self) -> int:
        """The memory of the device; of a GPU that shares it, the machine's."""
        if self.device == "cuda":
            return int(torch.cuda.get_device_properties(0).total_memory)
        return _memory_bytes()

    def machine(self) -> dict[str, Any]:
        """What is known of the machine: versions, processor, clocks, threads."""
        record: dict[str, Any] = {
            "kind": "machine", "device": self.device, "date": date.today().isoformat(),
            "torch": torch.__version__, "transformers": version("transformers"), "python": platform.python_version(),
            "cpus": os.cpu_count(), "threads": torch.get_num_threads(),
            "cpu_model": _cpu_model(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "memory_bytes": self.memory_bytes, "mhz": _mhz(),
        }  # fmt: skip
        if self.device == "mps":
            record["gpu"] = _cpu_model()  # the GPU of the same chip
        if self.device == "cuda":
            p = torch.cuda.get_device_properties(0)
            record |= {
                "gpu": p.name, "sms": p.multi_processor_count, "l2_bytes": getattr(p, "L2_cache_size", None),
                "cuda": torch.version.cuda, "compute_capability": float(f"{p.major}.{p.minor}"),
                "nvidia_smi": _nvidia_smi(),
            }  # fmt: skip
        return record

    def sample(self, run: Run, budget_s: float = CASE_S, least: int = SAMPLES) -> dict[str, Any]:
        """Times of one case, in microseconds: the median of synchronised samples, and the host's part.

        After a warm-up it is sampled for `budget_s`, and `least` times at least.
        """
        self.sync()
        start = time.perf_counter()
        run()
        self.sync()
        once = time.perf_counter() - start
        inner = max(1, min(1000, int(SAMPLE_S / max(once, 1e-7))))
        samples: list[float] = []
        issues: list[float] = []
        begin = time.perf_counter()
        while len(samples) < least or time.perf_counter() - begin < budget_s:
            start = time.perf_counter()
            for _ in range(inner):
                run()
            issued = time.perf_counter()
            self.sync()
            samples.append((time.perf_counter() - start) / inner)
            issues.append((issued - start) / inner)
        times = {"wall_us": 1e6 * statistics.median(samples), "wall_min_us": 1e6 * min(samples), "runs": len(samples)}
        if self.device != "cpu":
            times |= {"issue_us": 1e6 * statistics.median(issues), "stream_us": times["wall_us"]}
        return times

    def sample_between(self, run: Run, neighbour: Run, budget_s: float = CASE_S) -> dict[str, Any]:
        """The same of single calls on a CPU, with `neighbour` running before each, whose time is not counted."""
        samples: list[float] = []
        run()
        begin = time.perf_counter()
        while len(samples) < SAMPLES or time.perf_counter() - begin < budget_s:
            neighbour()
            start = time.perf_counter()
            run()
            samples.append(time.perf_counter() - start)
        return {"wall_us": 1e6 * statistics.median(samples), "wall_min_us": 1e6 * min(samples), "runs": len(samples)}

    def reference(self) -> dict[str, Any]:
        """Times of a product that is always the same: where they differ, it is the machine."""
        x, weight = self._operands
        return self.sample(lambda: x @ weight)

    def graph_us(self, run: Run, weight_bytes: int = 0) -> float | None:
        """Microseconds of one call in a CUDA graph, whose own launch is subtracted: the host is not in it.

        A replay makes so many calls that the weights, `weight_bytes` per call, exceed the L2 cache. None where a call
        cannot be captured, or is lost in the noise.
        """
        l2_bytes = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0)
        cold = math.ceil(COLD * l2_bytes / weight_bytes) if weight_bytes else 0
        try:
            return self._graph_us(run, max(GRAPH_CALLS, min(cold, WINDOWS // 2)))
        except RuntimeError:
            self.sync()
            return None

    def _graph_us(self, run: Run, inner: int) -> float | None:
        run_aside(run)
        best = []
        for count in (inner, 2 * inner):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(count):
                    run()
            graph.replay()
            self.sync()
            times = []
            for _ in range(7):
                start = time.perf_counter()
                graph.replay()
                self.sync()
                times.append(time.perf_counter() - start)
            best.append(min(times))
        return 1e6 * (best[1] - best[0]) / inner if best[1] > best[0] else None


def run_aside(run: Run) -> None:
    """Run a few times on a stream of its own, as a capture in a CUDA graph wants it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)


def reason(error: Exception) -> str:
    """Why a case could not run, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def busy_share() -> float:
    """The load of the last minute over the processors."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _cpu_model() -> str:
    brand = _cpuinfo("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string")
    return brand or platform.processor() or platform.machine()


def _mhz() -> float | None:
    """The clock of the first processor now, if the system says it."""
    try:
        return float(_cpuinfo("cpu MHz"))
    except ValueError:
        return None


def _cpuinfo(name: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 16 * 10**9


def _nvidia_smi() -> str:
    query = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,driver_version"
    return _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader").partition("\n")[0]


def _output(*command: str) -> str:
    """What a command prints; nothing where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
