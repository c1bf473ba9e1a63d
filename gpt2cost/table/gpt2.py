"""The cost table: the kernels of GPT-2's forward pass, as HuggingFace transformers 5.x runs it.

Read it beside `transformers/models/gpt2/modeling_gpt2.py`: the modules nest, and the kernels follow one another, as
there. Everything here is inert data and exact polynomial arithmetic. What takes seconds, and how many, is the machine
model's affair.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from gpt2cost.table import nanogpt
from gpt2cost.table.activations import act
from gpt2cost.table.attention import attention, probabilities_of
from gpt2cost.table.builders import fill, gather, layer_norm, output, pointwise, tensor
from gpt2cost.table.citations import cite
from gpt2cost.table.crossattention import cross_attention
from gpt2cost.table.dropout import dropout, drops
from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula, symbol
from gpt2cost.table.heads import head_parameters, headed
from gpt2cost.table.inlining import NUMBERS
from gpt2cost.table.kernel import Free, Kernel, Module, Tensor
from gpt2cost.table.masks import causal_mask, packed_sequence, pad_search
from gpt2cost.table.options import Head, TableOptions
from gpt2cost.table.qkv import QKV
from gpt2cost.table.quantization import projection
from gpt2cost.table.symbols import B, C, D, F, L, T, V, i64


def mlp(x: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """GPT2MLP."""
    src = "GPT2MLP.forward"
    c_fc = projection(x, F, D, "mlp.c_fc", cite(src, "self.c_fc(hidden_states)"), options)
    activated, y = act(options.activation_function, output(c_fc))
    c_proj = projection(y, D, F, "mlp.c_proj", cite(src, "self.c_proj(hidden_states)"), options)
    dropped = cite(src, "self.dropout(hidden_states)")
    drop, z = dropout("dropout", "resid", output(c_proj), "mlp.dropout", options, dropped)
    return Module("mlp", "GPT2MLP", (Free("mlp", "call", inputs=(x,), outputs=(z,)), c_fc, activated, c_proj, drop)), z


def cross(x: Tensor, own: QKV, options: TableOptions) -> tuple[tuple[Module | Kernel | Free, ...], QKV, Tensor, Tensor]:
    """What GPT2Block runs between attention, to `own`, and MLP where an encoder's states are passed.

    What cross-attention attends to, what it gives, and the sum of that and `x`.
    """
    src = "GPT2Block.forward"
    normed = layer_norm("ln_cross_attn", x, cite(src, "self.ln_cross_attn(hidden_states)"))
    module, qkv, attended = cross_attention(output(normed), options)
    added = tensor("cross_residual", B, T, D)
    source = cite(src, "hidden_states = residual + cross_attn_output")
    children = (
        normed,
        module,
        Free("locals", "view", 0, keeps=(probabilities_of(own),)),
        pointwise("cross_residual", "add", (x, attended), added, source, fusion_group="norm"),
        Free("hidden_states", "view", 0, keeps=(output(normed),)),
    )
    return children, qkv, attended, added


def block(x: Tensor, mask: Tensor, positions: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """GPT2Block. The residuals are the block's input and the sum after attention, not the normalised ones."""
    src = "GPT2Block.forward"
    ln_1 = layer_norm("ln_1", x, cite(src, "self.ln_1(hidden_states)"))
    attn, attended_to, attn_output = attention(output(ln_1), mask, positions, options)
    own, y = tensor("attn_residual", B, T, D), tensor("block_output", B, T, D)
    crossed: tuple[Module | Kernel | Free, ...] = ()
    middle = own
    variables: tuple[Tensor, ...] = (attn_output,)
    if options.encoder:
        crossed, attended_to, cross_output, middle = cross(own, attended_to, options)
        variables = (attn_output, cross_output)
    add_1 = cite(src, "hidden_states = attn_output + residual")
    ln_2 = layer_norm("ln_2", middle, cite(src, "self.ln_2(hidden_states)"))
    feed_forward, mlp_output = mlp(output(ln_2), options)
    add_2 = cite(src, "hidden_states = residual + feed_forward_hidden_states")
    children = (
        Free("block", "call", inputs=(x,), outputs=(y,)),
        ln_1,
        attn,
        pointwise("attn_residual", "add", (attn_output, x), own, add_1, fusion_group="norm"),
        Free("hidden_states", "view", 0, keeps=(output(ln_1),)),
        *crossed,
        ln_2,
        feed_forward,
        pointwise("mlp_residual", "add", (middle, mlp_output), y, add_2, fusion_group="norm"),
        Free("locals", "view", 0, keeps=(x, *variables, output(ln_2), probabilities_of(attended_to))),
    )
    return Module("h", "GPT2Block", children, count=L), y


def transformer(options: TableOptions) -> tuple[Module, Tensor]:
    """GPT2Model."""
    src = "GPT2Model.forward"
    ids, arange = tensor("input_ids", B, T, element=i64), tensor("arange", T, element=i64)
    given = options.in_generate and not options.encoder  # positions are: see generate_loop.py
    rows = B if given else formula(1)  # of positions
    positions = tensor("position_ids", rows, T, element=i64)
    counts = replace(positions, shape=(T,))
    arange_source, wpe = cite(src, "position_ids = torch.arange("), cite(src, "self.wpe(position_ids)")
    token, position = tensor("wte", B, T, D), tensor("wpe", rows, T, D)
    x = tensor("hidden_states", B, T, D, view_of="block_output")  # of the block before, but for the first
    embedded = replace(x, name="embeddings", view_of="") if drops(options, "embd") else x
    drop, _ = dropout("drop", "embd", embedded, x.name, options, cite(src, "self.drop(hidden_states)"))
    mask_steps, mask = causal_mask(options, positions, rows)
    if options.in_generate and options.cache_type == "static":
        mask_steps = ()  # prepare_inputs_for_generation has made it: see generate_loop.py
    packed = not options.use_cache and not options.padded
    h, y = block(x, mask, positions, options)
    normed = tensor("ln_f", B, T, D)
    group = "norm"

    def count_on(name: str, past: tuple[Tensor, ...], when: Condition) -> Kernel:
        return pointwise(name, "add", (arange, *past), counts, arange_source, when=when, fusion_group=NUMBERS)

    length = (tensor("length", element=i64),)  # of a static cache, once it has been written to: a tensor, not a number
    counted: tuple[Kernel, ...] = (count_on("position_ids", (), ALWAYS),)
    if options.cache_type == "static":
        counted = (count_on("position_ids", (), C.is_zero()), count_on("position_ids_static", length, C > 0))
    numbered: tuple[Kernel | Free, ...] = (
        fill("arange", "arange", arange, arange_source, fusion_group=NUMBERS), *counted,
        Free("views", "view", 1, inputs=(counts,), outputs=(positions,)),
    )  # fmt: skip
    children: tuple[Module | Kernel | Free, ...] = (
        Free("transformer", "call", inputs=(ids,), outputs=(normed,)),
        *(pad_search(ids) if options.has_pad_token and not (options.padded or options.traced) else ()),
        Free("views", "view", 1, inputs=(ids,), outputs=(ids,)),
        Module("wte", "Embedding", (gather(ids, token, cite(src, "self.wte(input_ids)"), group),)),
        *(() if given else numbered),
        Module("wpe", "Embedding", (gather(positions, position, wpe, group),)),
        pointwise(
            "add", "add", (token, position), embedded, cite(src, "hidden_states = inputs_embeds + position_embeds"),
            fusion_group=group,
        ),
        *(packed_sequence(positions, rows, options.traced) if packed else ()),
        *mask_steps,
        drop,
        h,
        layer_norm("ln_f", y, cite(src, "self.ln_f(hidden_states)")),
        Free("views", "view", 1, keeps=(token, position, positions, mask), inputs=(normed,), outputs=(normed,)),
    )  # fmt: skip
    return Module("transformer", "GPT2Model", children), normed


@lru_cache(maxsize=64)
def cost_table(options: TableOptions = TableOptions()) -> Module:
    """GPT2LMHeadModel, one of another head, or another implementation's model: the table for one way of running it.

    Raises `InputError` for an activation function that is not modelled.
    """
    if options.impl == "nanogpt":
        return nanogpt.gpt(options)
    return headed(*transformer(options), options)


def parameter_count(tied: bool = True, bias: bool = True, head: Head = "lm", crossed: bool = False) -> Formula:
    """The model's parameters. Tied embeddings are counted once. `bias`: of Linear and LayerNorm. `crossed`: with
    cross-attention in the blocks."""
    positions, one = symbol("n_positions"), int(bias)
    layer_norms = (1 + one) * D
    layer = 2 * layer_norms + (D + one) * 3 * D + (D + one) * D + (D + one) * F + (F + one) * D
    if crossed:
        layer += layer_norms + (D + one) * 4 * D
    return V * D + positions * D + L * layer + layer_norms + head_parameters(head, tied)
