"""What a kernel is: inert records, and the kinds that the cost table is made of.

A kernel names the tensors that it reads and writes; its bytes are theirs, so that a fusion of kernels can be derived
(what comes from outside is read, what leaves is written), and so can the memory that is live at any moment. A kernel
that is launched only at some sizes carries the condition in `when`.

Conventions: a product of (m, k) and (k, n) has 2*m*n*k FLOPs, fused attention those of its two products over the full
square; softmax has 5 and layer norm 8 FLOPs per element, other arithmetic 1 per output element (a reduction: per input
element); copies, casts, gathers and fills have none. An operand is read or written once; a dimension of stride 0
counts once; a gather reads the rows that it copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Literal, TypeAlias

from gpt2cost.table.citations import Citation
from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula
from gpt2cost.table.symbols import D, H, a, hd

Kind: TypeAlias = Literal["gemm", "bmm", "attention", "reduction", "elementwise", "copy", "gather", "fill"]


@dataclass(frozen=True)
class Tensor:
    """An operand: its name, its shape, and the bytes of an element.

    The shape is the source's, before a product flattens it: (batch_size, num_heads, seq_len, head_dim), a scalar's ().
    A dimension of stride 0 is 1 in it. `view_of`: the tensor in whose memory it lies where no kernel makes it.
    `by_head`: its memory is in the order (batch, heads, tokens, head_dim), so that the gradient of a view of it by
    tokens has to be copied. `packs`: the shape of the weight of which it holds several elements in a byte.
    """

    name: str
    shape: tuple[Formula, ...]
    element: Formula = a
    is_weight: bool = False
    view_of: str = ""
    by_head: bool = False
    packs: tuple[Formula, ...] = ()

    @cached_property
    def elements(self) -> Formula:
        """How many elements it has."""
        return _product(self.shape)

    @cached_property
    def bytes(self) -> Formula:
        """Its stored bytes."""
        return _product((*self.shape, self.element))


@lru_cache(maxsize=4096)
def _product(sizes: tuple[Formula, ...]) -> Formula:
    """All sizes multiplied. The heads and their width together are hidden_size, as a view without them has it."""
    factors = list(sizes)
    if H in sizes and hd in sizes:
        factors.remove(H)
        factors[factors.index(hd)] = D
    return prod(factors, start=formula(1))


@dataclass(frozen=True)
class Gemm:
    """`batch` products of (m, k) and (k, n). `layout`: which of the two lies transposed (T) in memory.

    `scaled`: the product is multiplied by a number other than 1, as its gradients then are, by kernels of their own.
    `dtype`: what it is multiplied in where that is not the model's, int8 or a dtype. `unpacks`: the (k, n) operand
    holds 4-bit weights.
    """

    batch: Formula
    m: Formula
    n: Formula
    k: Formula
    layout: Literal["NN", "NT", "TN"] = "NN"
    scaled: bool = False
    dtype: str = ""
    unpacks: bool = False


@dataclass(frozen=True)
class FusedAttention:
    """softmax(Q K^T + mask) V in one kernel: `new_tokens` queries per head over `kv_len` keys, `causal` or all of them.

    `backward`: its gradients, which compute the probabilities anew: five products where the forward has two.
    """

    batch: Formula
    heads: Formula
    head_dim: Formula
    new_tokens: Formula
    kv_len: Formula
    masked: bool  # an explicit mask tensor rather than the kernel's own causal rule
    backward: bool = False
    causal: bool = True


@dataclass(frozen=True)
class Parameter:
    """Weights of one shape: `name` as `named_parameters()` has it, with `{i}` for the layer.

    The shape of one tensor, and how many tensors there are.
    """

    name: str
    shape: tuple[Formula, ...]
    count: Formula

    @cached_property
    def elements(self) -> Formula:
        """How many elements one tensor has."""
        return _product(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it has two dimensions."""
        return len(self.shape) > 1


@dataclass(frozen=True)
class Foreach:
    """One op over a list of tensors of the parameters' sizes, which runs in as few launches as take them all.

    `lists`: of how many lists the kernel has the addresses; `has_scalars`: it also has a number for each tensor.
    """

    parameters: tuple[Parameter, ...]
    lists: int
    has_scalars: bool = False


@dataclass(frozen=True)
class Kernel:
    """One kernel launch: what it stands for, what it moves and computes. Formulas are per launch."""

    name: str
    op: str
    kind: Kind
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    flops: Formula
    source: Citation
    when: Condition = ALWAYS
    shape: Gemm | FusedAttention | Foreach | None = None  # what the machine model needs beyond bytes
    columns: Formula | None = None  # the length of the rows that a softmax or a layer norm reduces
    fusion_group: str = ""  # a compiler merges neighbours of one group; "" stays alone
    in_module: bool = False  # launched by an nn.Module's own call (Conv1D, Linear, LayerNorm, Embedding)
    compiled: bool = False  # generated by a compiler, or called by it with operands that it may have padded
    parts: tuple[Row, ...] = field(default=(), compare=False, repr=False)  # the rows that a compiler has merged in it

    @cached_property
    def reads(self) -> Formula:
        """Bytes read."""
        return sum((tensor.bytes for tensor in self.inputs), formula(0))

    @cached_property
    def writes(self) -> Formula:
        """Bytes written."""
        return sum((tensor.bytes for tensor in self.outputs), formula(0))

    @cached_property
    def written_elements(self) -> Formula:
        """Elements written, of whatever size each tensor's are."""
        return sum((tensor.elements for tensor in self.outputs), formula(0))

    @cached_property
    def is_by_tokens(self) -> bool:
        """Whether its sizes depend on how many tokens there are, not on how long each sequence is: on B*T alone."""
        sizes = [tensor.bytes for tensor in (*self.inputs, *self.outputs)]
        others = (self.columns, *(vars(self.shape).values() if self.shape else ()))
        sizes += [size for size in others if isinstance(size, Formula)]
        return all(
            size.has_only_product_of("batch_size", "seq_len") and size.symbols.isdisjoint(("cache_len", "kv_len"))
            for size in sizes
        )


@dataclass(frozen=True)
class Free:
    """Work that launches no kernel, written down so that free is never a silent zero. It may cost host time.

    `view`: an op that returns a view; `call`: the call of an nn.Module that computes nothing itself (dropout in
    inference, a container); `sync`: the host waits for the device. `keeps` names tensors that stay alive until here.
    `inputs` and `outputs`: what a view or a call takes and gives, where it is written down.
    """

    name: str
    op: Literal["view", "call", "sync"]
    count: int = 1
    when: Condition = ALWAYS
    keeps: tuple[Tensor, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Module:
    """A module of the model, of a class of that name; `count` equal copies of it one after the other.

    It returns what the last of its kernels makes, or the tensor `passes` where none runs. One without children is never
    called.
    """

    name: str
    cls: str
    children: tuple[Module | Kernel | Free, ...]
    count: Formula = field(default_factory=lambda: formula(1))
    passes: Tensor | None = None


@dataclass(frozen=True)
class Row:
    """A kernel or a free step, the dotted path of the module that it belongs to, and how often it comes.

    `index` is its place in the list of rows that it comes from, and its key in whatever is known of those rows.
    """

    module: str
    step: Kernel | Free
    count: Formula
    index: int

    @property
    def path(self) -> str:
        """The step's address. The one kernel of a leaf module bears the module's own: `transformer.h.attn.c_attn`."""
        return ".".join(filter(None, (self.module, self.step.name)))

    @property
    def does_something(self) -> bool:
        """False of a row that only says what a variable keeps alive."""
        return isinstance(self.step, Kernel) or self.step.count > 0

    def times(self, values: Mapping[str, Any]) -> int:
        """How often it runs, where each symbol has one value."""
        return int(self.count.evaluate(values) * self.step.when.evaluate(values))


def short_path(path: str) -> str:
    """A path as people read it: without the name that the heads give to what is below them."""
    return path.removeprefix("transformer.")


def inside_out(path: str) -> Iterator[str]:
    """A path, and those of what it is in."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def walk(module: Module) -> Iterator[Row]:
    """All steps of `module` in the order in which they run; a repeated module is walked once."""
    for index, (path, step, count) in enumerate(_steps(module, "", formula(1))):
        yield Row(path, step, count, index)


def numbered(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows, with their places in this list."""
    return tuple(replace(row, index=index) for index, row in enumerate(rows))


def _steps(module: Module, prefix: str, count: Formula) -> Iterator[tuple[str, Kernel | Free, Formula]]:
    path, count = ".".join(filter(None, (prefix, module.name))), count * module.count
    for child in module.children:
        if isinstance(child, Module):
            yield from _steps(child, path, count)
        else:
            yield path, child, count
