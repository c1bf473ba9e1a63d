"""How the kernels that only training runs move their bytes on a GPU, beside those of `gpu_memory`.

Each op is timed as one of the memory-bound kinds of its device, whose rate it reaches a share of, with what it reads
more than once counted as often:

    T = launches' floors + memory_terms(kind, reads * bytes read, bytes written) at rate * dram_efficiency of the kind

A gradient of an embedding is filled with zeros; then the rows of the tokens are added to it at a share of the rate at
which rows are gathered.

Sources of the shares: [1] cross-entropy, layer norm and embedding of PyTorch on an A100, linkedin/Liger-Kernel@ead96b6;
[2] kernels of a tuned program on an RTX 5090, code index id 55561960129; [3] AdamW of torch 2.8 and in one kernel on an
A100, IMvision12/trinix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gpt2cost.device.dtypes import HALF_DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.table.fusion_pieces import SCATTER
from gpt2cost.table.kernel import Foreach, Kernel
from gpt2cost.table.optimizer import launches
from gpt2cost.timing.gpu_memory import memory_terms, missing
from gpt2cost.timing.terms import Array, Terms, at_least


@dataclass(frozen=True)
class Form:
    """As which kind an op is timed. `reads`: how often it reads what it reads; `rate`: of the kind's share of DRAM;
    `launches`: kernels that one call of it is; `by_rows`: its rows wait for their own sums, as the kind's do."""

    kind: str
    reads: float = 1.0
    rate: float = 1.0
    launches: int = 1
    by_rows: bool = False


FORMS = {
    # a maximum, a sum and the result each read the row; 0.79 of an A100's DRAM for four passes over it [1]
    "_log_softmax": Form("elementwise", reads=3.0, rate=0.92),
    # the gradient is read for its sum and once more; what is left of backward [1] once its zero fill is taken off
    "_log_softmax_backward_data": Form("elementwise", reads=1.5, rate=0.55),
    "nll_loss_backward": Form("fill"),
    # the gradient of the input, then those of weight and bias, which read both operands anew: 5 arrays for the
    # forward's 2, and 2.1 to 2.7 times its time on A100 and H100 [1], 2.06 in one kernel [2]
    "native_layer_norm_backward": Form("layer_norm", reads=2.0, launches=2, by_rows=True),
    "gelu_backward": Form("gelu"),
    # a copy, which is then filled in place
    "masked_fill": Form("elementwise", reads=3.0, launches=2),
    "_softmax_backward_data": Form("elementwise", rate=0.93),  # as a softmax of rows in registers
}
"""An op of training -> how it is timed, where it is no plain element-wise kernel."""

ADDED_ROWS = {"embedding_dense_backward": 0.2, SCATTER: 1.0}
"""An embedding's gradient -> of the rate of gathered rows, at which rows are added to it. PyTorch sorts them first:
0.85 ms for 16,384 rows of 768 on an A100 [1]. Compiled code adds them as they come: assumed, nothing is measured."""


def training_terms(
    hw: Hardware, kernel: Kernel, values: Mapping[str, Array], columns: Array, floor_s: float, cold: tuple[Array, Array]
) -> Terms | None:
    """The terms of one launch of `kernel` at the sizes in `values`; None for one that inference has too.

    `columns`: of the rows that it reduces; `cold`: how many of the bytes read and written DRAM moves.
    """
    read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
    elements = kernel.written_elements.evaluate(values)
    if kernel.op in ADDED_ROWS and kernel.kind == "gather":
        filled = memory_terms(hw, "fill", 0.0, write, elements, 1.0, floor_s, cold_write=cold[1])
        given = kernel.inputs[0]
        rows, count = given.bytes.evaluate(values), given.elements.evaluate(values)
        added = memory_terms(hw, "gather", rows, rows, count / ADDED_ROWS[kernel.op], 1.0, floor_s)
        return filled + added
    if isinstance(kernel.shape, Foreach):
        share = hw.gpu_model.memory.foreach
        terms = memory_terms(
            hw, "elementwise", read, write, elements, 1.0, floor_s, cold_read=cold[0], cold_write=cold[1], rate=share
        )
        return at_least(launches(kernel, values) * floor_s, terms)
    form = FORMS.get(kernel.op)
    if form is None or (kernel.op == "masked_fill" and kernel.kind != "copy"):  # that has its copy before it
        return None
    again = (form.reads - 1.0) * read
    cold_read = cold[0] + again * missing(hw, read + write)
    terms = memory_terms(
        hw, form.kind, read + again, write, elements, columns if form.by_rows else 1.0, floor_s,
        cold_read=cold_read, cold_write=cold[1], rate=form.rate,
    )  # fmt: skip
    return at_least(form.launches * floor_s, terms)


ODD_ROWS = 5.0
"""How many times its arithmetic a product takes longer of which an operand's rows are an odd number of 16-bit elements:
they cannot be copied to shared memory 4 bytes at a time, as devices from sm80 on do. The gradient of the logits is such
an operand where the vocabulary is odd, and nobody pads it. Fitted: steps of GPT-2 124M on an A100 in bf16 without a
compiler, of build-nanogpt (300 ms a step of 16 sequences, 311, 301), of nanoGPT (250 ms of 12) and of
rasbt/LLMs-from-scratch (89 ms of 8), which give 3.8 to 6.5. Forward products have odd rows in their result alone, and
were measured."""


def is_gradient(kernel: Kernel) -> bool:
    """Whether a product makes a gradient, as the names of the training table's rows say."""
    return kernel.name.rpartition(".")[2].startswith("grad_")


def with_odd_rows(hw: Hardware, terms: Terms, dtype: str, m: Array, n: Array, k: Array, layout: str) -> Terms:
    """The terms of a product, longer by `ODD_ROWS` where an operand has odd rows in memory; what it moves stays.

    From sm90 on whatever is not aligned is multiplied by kernels of an older architecture, forward or backward, which a
    device's products have constants of.
    """
    if dtype not in HALF_DTYPES or not 8 <= (hw.compute_capability or 0) < 9:
        return terms
    first, second = (m if layout == "TN" else k), (k if layout == "NT" else n)
    more_s = np.where((first % 2 > 0) | (second % 2 > 0), ODD_ROWS * terms.compute_s, 0.0)
    return replace(terms, device_s=terms.device_s + more_s, serial_s=terms.serial_s + more_s)
