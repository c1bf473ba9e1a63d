"""The symbols of the cost table, short in code; formulas print the long names."""

from __future__ import annotations

from gpt2cost.table.formula import symbol

B = symbol("batch_size")
T = symbol("seq_len")  # new tokens in this pass
C = symbol("cache_len")  # tokens already in the KV cache
S = symbol("kv_len")  # C + T
L = symbol("num_layers")
H = symbol("num_heads")
hd = symbol("head_dim")
D = symbol("hidden_size")  # H * hd
F = symbol("intermediate_size")
V = symbol("vocab_size")
E = symbol("encoder_len")  # an encoder's states, which cross-attention sees
N = symbol("num_labels")  # classes that a classification head tells apart
w = symbol("w_bytes")  # bytes of a weight element
a = symbol("a_bytes")  # bytes of an activation element
i64 = symbol("index_bytes")  # bytes of a token id or position: 8
b8 = symbol("bool_bytes")  # bytes of a mask element: 1
f32 = symbol("stat_bytes")  # bytes of a float32 element whatever the dtype: layer norm's statistics, upcast scores: 4
i32 = f32  # bytes of an int32, as many as of a float32
CONSTANT_BYTES = {"index_bytes": 8, "bool_bytes": 1, "stat_bytes": 4}
