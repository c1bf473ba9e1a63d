"""`gpt2cost kernel`: one kernel on its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from inspect import Parameter
from typing import Annotated, Any

import typer

from gpt2cost.cli.choices import among, either
from gpt2cost.cli.flags import ChipFlags, DtypeFlag, OutputFlags, keyword, takes
from gpt2cost.device.gpu_constants import ATTENTION_KERNELS
from gpt2cost.output.catalog import KERNEL
from gpt2cost.prediction.one_kernel import KERNEL_KINDS, KERNEL_SIZES, kernel_latency

MEANINGS = {
    "m": "rows of the result",
    "n": "columns of the result",
    "k": "what is summed over",
    "masked": "with an explicit mask, which flash kernels do not take",
    "write_cache": "the new keys and values are written into a cache too (default)",
    "inputs": "tensors read",
}
"""What the name of a size does not say."""

CHOOSABLE = (*ATTENTION_KERNELS, "math")
KernelFlag = Annotated[
    str | None,
    typer.Option(
        "--kernel",
        help=f"attention: {either(CHOOSABLE)}; default: what PyTorch's sdpa runs on the device.",
        autocompletion=among(*CHOOSABLE),
    ),
]


def _sizes() -> Iterator[Parameter]:
    """A flag for every size that a kind takes; a switch where its default is one."""
    for name in dict.fromkeys(name for sizes in KERNEL_SIZES.values() for name in sizes):
        kinds = [kind for kind, sizes in KERNEL_SIZES.items() if name in sizes]
        meaning = f": {MEANINGS[name]}" if name in MEANINGS else ""
        option = typer.Option(help=f"{', '.join(kinds)}{meaning}.")
        of = bool if isinstance(KERNEL_SIZES[kinds[0]][name], bool) else int
        yield keyword(name, Annotated[of | None, option])


@partial(takes, more=_sizes())
def kernel(
    kind: Annotated[str, typer.Argument(help=f"{either(KERNEL_KINDS)}.", autocompletion=among(*KERNEL_KINDS))],
    *,
    device: ChipFlags,
    dtype: DtypeFlag = "fp16",
    attention_kernel: KernelFlag = None,
    reuse_bytes: Annotated[
        int | None,
        typer.Option(help="Bytes touched since the operands were last used: 0 is warm, more than L2 is cold."),
    ] = None,
    out: OutputFlags,
    **sizes: Any,
) -> None:
    """Predict one kernel on its own: FLOPs, bytes, latency in a busy stream, and what bounds it.

    The stream is busy, so that no time of the host is in it: there is no --host-factor.
    """
    sink = out.sink()
    shape = {name: value for name, value in sizes.items() if value is not None}
    latency = kernel_latency(
        kind, device.load_device(), dtype, kernel=attention_kernel, reuse_bytes=reuse_bytes, **shape
    )
    sink.show(KERNEL, latency)
