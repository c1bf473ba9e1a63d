"""What an attention function is given: queries, keys and values, by heads, and where their memory has to be copied."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpt2cost.table.builders import tensor
from gpt2cost.table.formula import Condition, Formula
from gpt2cost.table.kernel import Tensor
from gpt2cost.table.symbols import B, H, S, T, a, f32

HALF = a < f32
"""Where activations have 16 bits."""

# Query, key and value are strided views of c_attn's output. A reshape to (B*H, ...) has to copy them unless one of
# the two dimensions is 1; the output's (B, T, H, hd) has to be copied from (B, H, T, hd) unless T or H is 1.
SPLIT_HEADS_COPY = (B > 1) & (H > 1)
MERGE_HEADS_COPY = (T > 1) & (H > 1)


@dataclass(frozen=True)
class QKV:
    """The query (B, H, T, hd), and `keys` keys and values (B, H, keys, hd).

    `cached`: keys and values come from the cache, where they lie by heads. `prefix`: of the names of the tensors that
    attention makes of them, which tell two attentions of one block apart. `causal`: a query sees the keys up to its
    own place, or all of them. `query_copy`: where a product by heads needs the query's memory in another order.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    cached: bool
    keys: Formula = S
    prefix: str = ""
    causal: bool = True
    query_copy: Condition = SPLIT_HEADS_COPY

    def tensor(self, name: str, *dims: Formula | int, element: Formula = a) -> Tensor:
        """A tensor that attention makes of them."""
        return tensor(self.prefix + name, *dims, element=element)

    def copied(self) -> tuple[Tensor, Tensor]:
        """Query and key as the product of the scores reads them."""
        query = replace(self.query, name=f"{self.prefix}query.copy")
        return query, self.key if self.cached else replace(self.key, name=f"{self.prefix}key.copy")


def flattened(x: Tensor) -> Tensor:
    """A tensor (B, H, ...) as a batch of products takes it: (B*H, ...)."""
    return replace(x, shape=(B * H, *x.shape[2:]))
