"""Why the steps of layers with quantised weights run. Keys: `weights`, and the step's name."""

from __future__ import annotations

_LARGE = "Part of the search for outliers among the activations, whose columns int8 multiplies apart in 16 bit."
_NO_SEARCH = "--set llm_int8_threshold=0, by which no outliers are looked for"
_OTHER_DTYPE = "--dtype fp16, in which bitsandbytes rounds to int8; of 4 bit a bnb_4bit_compute_dtype that is the dtype"

DOES = {
    "weights python": (
        "What bitsandbytes' own Python takes of the host: ops that are written in Python and call one another, given in"
        " calls of a module that computes nothing. Measured on a CPU; no kernel of its own."
    ),
    "weights flatten": "The tokens of all sequences as rows, and back again: views, no kernel.",
    "weights cast_input": (
        "The activations in the dtype that the layer computes in: float16 before they are rounded to int8, and of 4-bit"
        " weights bnb_4bit_compute_dtype."
    ),
    "weights abs": f"The magnitude of each activation. {_LARGE}",
    "weights outliers": f"Compares the magnitudes with llm_int8_threshold. {_LARGE}",
    "weights any_outlier": f"Is there one? One boolean for all of them. {_LARGE}",
    "weights outlier_sync": (
        "The host waits for that answer, in every layer. Here there is none: with some, more kernels follow, as many"
        " bytes as there are such columns."
    ),
    "weights quantize_locals": "A Python variable that keeps the booleans alive: memory, and no time.",
    "weights int8_locals": "Python variables that keep tensors alive until the layer returns: memory, and no time.",
    "weights zero_sync": (
        "The 0 that outliers' columns would be set to becomes a tensor, copied from the host, which waits for the copy."
        " There is no such column, and nothing is set."
    ),
    "weights quantize": (
        "Rounds the activations to int8, each row by its own largest magnitude, which is kept as its scale in float32."
    ),
    "weights matmul [int8_linear_matmul]": "The product, of integers, with int32 results.",
    "weights matmul": "An ordinary product with the weight that another kernel has unpacked.",
    "weights dequantize [int8_mm_dequant]": (
        "Multiplies the results by the scales of their row and column, and adds the bias: back to float16."
    ),
    "weights dequantize": (
        "Unpacks the whole weight by its scales, one for 64 elements, and writes it to memory before it is multiplied."
        " bitsandbytes does so where there are many rows."
    ),
    "weights bias": "Adds the bias: bitsandbytes' kernel does so in float16 alone.",
    "weights cast_output": "The results in the model's dtype again.",
    "weights gemm_4bit": (
        "The product in one kernel, which unpacks the 4-bit weights as it reads them, with the bias. bitsandbytes runs"
        " it for few rows: how many depends on the device and on the weight's size."
    ),
    "weights dequantize_absmax": "The scales, which are themselves stored in 8 bit, by the scales of those.",
    "weights offset": "Adds the scales' mean, which was taken off before they were stored.",
}
ALONE = ("python", "flatten", "outlier_sync", "zero_sync", "quantize_locals", "int8_locals")
"""Steps that launch nothing."""
REMOVED_BY = {
    **{f"weights {name}": _NO_SEARCH for name in ("abs", "outliers", "any_outlier", "outlier_sync", "zero_sync")},
    **{f"weights {name}": _OTHER_DTYPE for name in ("cast_input", "bias", "cast_output")},
    "weights dequantize_absmax": "--set bnb_4bit_use_double_quant=false, which stores the scales in float32",
    "weights offset": "--set bnb_4bit_use_double_quant=false, which stores the scales in float32",
}
