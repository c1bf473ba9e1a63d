"""The modular GPT-2 that `--impl nanogpt` is, as a torch module to be trained: after nanoGPT's model.py. Needs torch.

nn.Linear, attention fused or by hand, GELU in one kernel, biases that are optional, a tied head, and no KV cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gpt2cost.table.config import Model


class CausalSelfAttention(nn.Module):  # type: ignore[misc]
    """Queries, keys and values in one product, split by views. `fused`: by scaled_dot_product_attention."""

    def __init__(self, model: Model, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        if not fused:
            ones = torch.ones(model.n_positions, model.n_positions)
            self.register_buffer("mask", torch.tril(ones).view(1, 1, model.n_positions, model.n_positions))
            self.attn_dropout = nn.Dropout(model.attn_pdrop)
        self.n_head, self.n_embd, self.dropout = model.n_head, model.n_embd, model.attn_pdrop
        self.c_attn = nn.Linear(model.n_embd, 3 * model.n_embd, bias=model.bias)
        self.c_proj = nn.Linear(model.n_embd, model.n_embd, bias=model.bias)
        self.resid_dropout = nn.Dropout(model.resid_pdrop)

    def forward(self, x: Any) -> Any:
        B, T, D = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k, q, v = (part.view(B, T, self.n_head, D // self.n_head).transpose(1, 2) for part in (k, q, v))  # its order
        if self.fused:
            dropout = self.dropout if self.training else 0.0
            y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
            y = self.attn_dropout(functional.softmax(scores, dim=-1)) @ v
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).contiguous().view(B, T, D)))


class Block(nn.Module):  # type: ignore[misc]
    """x + attention, then x + MLP, each of the layer norm of x."""

    def __init__(self, model: Model, fused: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(model.n_embd, bias=model.bias)
        self.attn = CausalSelfAttention(model, fused)
        self.ln_2 = nn.LayerNorm(model.n_embd, bias=model.bias)
        self.mlp = nn.Sequential(
            nn.Linear(model.n_embd, model.n_inner, bias=model.bias),
            nn.GELU(approximate="tanh"),
            nn.Linear(model.n_inner, model.n_embd, bias=model.bias),
            nn.Dropout(model.resid_pdrop),
        )

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):  # type: ignore[misc]
    """The model with its loss, with attention `fused` or by hand. `checkpoints`: each block runs its forward again in
    the backward pass."""

    def __init__(self, model: Model, fused: bool = True, checkpoints: bool = False) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.wte = nn.Embedding(model.vocab_size, model.n_embd)
        self.wpe = nn.Embedding(model.n_positions, model.n_embd)
        self.drop = nn.Dropout(model.embd_pdrop)
        self.h = nn.ModuleList([Block(model, fused) for _ in range(model.n_layer)])
        self.ln_f = nn.LayerNorm(model.n_embd, bias=model.bias)
        self.lm_head = nn.Linear(model.n_embd, model.vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, ids: Any, targets: Any) -> Any:
        """The loss of `targets`, the token after each of `ids`; both (batch, tokens)."""
        positions = torch.arange(0, ids.size(1), dtype=torch.long, device=ids.device)
        x = self.drop(self.wte(ids) + self.wpe(positions))
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpoints else block(x)
        logits = self.lm_head(self.ln_f(x))
        return functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
