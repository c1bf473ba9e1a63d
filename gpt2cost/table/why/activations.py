"""Why each kernel of an activation function runs: which part of its formula it is. Keys: see `why.py`."""

from __future__ import annotations

_FORMULAS: dict[str, tuple[str, dict[str, str]]] = {
    "NewGELUActivation": (
        "0.5*x*(1+tanh(sqrt(2/pi)*(x+0.044715*x^3)))",
        {
            "mul": "0.5*x", "pow": "x^3", "mul_1": "0.044715 times x^3", "add": "x plus that",
            "mul_2": "sqrt(2/pi) times that", "tanh": "tanh of that", "add_1": "1 plus that",
            "mul_3": "0.5*x, from the first kernel, times that: the result",
        },
    ),
    "FastGELUActivation": (
        "0.5*x*(1+tanh(x*0.79788*(1+0.044715*x*x)))",
        {
            "mul": "0.5*x", "mul_1": "0.79788*x", "mul_2": "0.044715*x", "mul_3": "that times x", "add": "1 plus that",
            "mul_4": "0.79788*x, from the second kernel, times that", "tanh": "tanh of that", "add_1": "1 plus that",
            "mul_5": "0.5*x, from the first kernel, times that: the result",
        },
    ),
    "GELUActivation._gelu_python": (
        "0.5*x*(1+erf(x/sqrt(2)))",
        {
            "mul": "0.5*x", "div": "x/sqrt(2)", "erf": "erf of that", "add": "1 plus that",
            "mul_1": "0.5*x, from the first kernel, times that: the result",
        },
    ),
    "LaplaceActivation": (
        "0.5*(1+erf((x-mu)/(sigma*sqrt(2))))",
        {
            "sub": "x-mu", "div": "that over sigma*sqrt(2)", "erf": "erf of that", "add": "1 plus that",
            "mul": "0.5 times that: the result",
        },
    ),
    "QuickGELUActivation": (
        "x*sigmoid(1.702*x)",
        {"mul": "1.702*x", "sigmoid": "sigmoid of that", "mul_1": "x times that: the result"},
    ),
    "ClippedGELUActivation": (
        "clip(gelu(x), -10, 10)",
        {"gelu": "GELU, exact", "clamp": "clipped to -10 and 10: the result"},
    ),
    "ReLUSquaredActivation": ("relu(x)^2", {"relu": "the larger of x and 0", "pow": "that squared: the result"}),
    "SqrtSoftplusActivation": (
        "sqrt(softplus(x))",
        {"softplus": "log(1+exp(x))", "sqrt": "the root of that: the result"},
    ),
}  # fmt: skip
"""A function of transformers' activations.py -> its formula, and which part of it each kernel is, in order."""

SAME = {"AccurateGELUActivation": "NewGELUActivation", "GELUTanh._gelu_tanh_python": "NewGELUActivation"}
"""Functions that compute the formula of another."""

_ALONE = {
    "GELUActivation gelu": "GELU, x times the normal distribution's share below x",
    "GELUTanh gelu": "GELU by its tanh formula",
    "MishActivation mish": "mish, x*tanh(softplus(x))",
    "GPT2MLP hardswish": "hardswish, x*clip(x+3, 0, 6)/6",
    "GPT2MLP leaky_relu": "leaky ReLU, x where it is positive and 0.01*x elsewhere",
    "GPT2MLP relu": "ReLU, the larger of x and 0",
    "GPT2MLP hardtanh": "ReLU6, x clipped to 0 and 6",
    "GPT2MLP sigmoid": "the sigmoid, 1/(1+exp(-x))",
    "GPT2MLP silu": "SiLU, x*sigmoid(x)",
    "GPT2MLP tanh": "tanh",
}
"""Activation functions that torch has as one kernel."""


def formula_of(key: str) -> str:
    """The formula that a kernel is a part of; "" for a key of something else."""
    return _FORMULAS.get(key.partition(" ")[0], ("", {}))[0]


def _part(place: int, count: int, formula: str, part: str) -> str:
    note = "" if place else " Without a compiler each operation is a kernel that reads and writes whole tensors."
    return f"Kernel {place + 1} of {count} of the activation {formula}: {part}.{note}"


DOES = {
    **{
        f"{function} {name}": _part(place, len(parts), formula, part)
        for function, (formula, parts) in _FORMULAS.items()
        for place, (name, part) in enumerate(parts.items())
    },
    **{key: f"The MLP's activation function, {what}, in one kernel." for key, what in _ALONE.items()},
}

REMOVED_BY = {
    f"{function} {name}": "--runtime compile merges all of them into one kernel"
    + (
        "; --set activation_function=gelu_pytorch_tanh is the same formula in one kernel of torch's"
        if function in ("NewGELUActivation", "FastGELUActivation")
        else ""
    )
    for function, (_, parts) in _FORMULAS.items()
    for name in parts
}
