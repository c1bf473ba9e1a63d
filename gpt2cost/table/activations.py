"""The activation functions of the MLP, as the element-wise kernels that transformers' ACT2FN runs."""

from __future__ import annotations

from gpt2cost.errors import InputError, echo
from gpt2cost.table.builders import pointwise, tensor
from gpt2cost.table.citations import cite
from gpt2cost.table.kernel import Free, Kernel, Module, Tensor
from gpt2cost.table.symbols import B, F, T

# Each activation as its kernels: (op, operands), operand 0 being the input and i the result of kernel i.
# From transformers/activations.py; names as in ACT2FN.
_GELU_NEW = (("mul", 0), ("pow", 0), ("mul", 2), ("add", 0, 3), ("mul", 4), ("tanh", 5), ("add", 6), ("mul", 1, 7))
ACTIVATIONS: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "gelu": (("gelu", 0),),
    "gelu_10": (("gelu", 0), ("clamp", 1)),
    "gelu_accurate": _GELU_NEW,
    "gelu_fast": (
        ("mul", 0), ("mul", 0), ("mul", 0), ("mul", 3, 0), ("add", 4), ("mul", 2, 5), ("tanh", 6), ("add", 7),
        ("mul", 1, 8),
    ),
    "gelu_new": _GELU_NEW,
    "gelu_python": (("mul", 0), ("div", 0), ("erf", 2), ("add", 3), ("mul", 1, 4)),
    "gelu_python_tanh": _GELU_NEW,
    "gelu_pytorch_tanh": (("gelu", 0),),
    "hardswish": (("hardswish", 0),),
    "laplace": (("sub", 0), ("div", 1), ("erf", 2), ("add", 3), ("mul", 4)),
    "leaky_relu": (("leaky_relu", 0),),
    "linear": (),
    "mish": (("mish", 0),),
    "quick_gelu": (("mul", 0), ("sigmoid", 1), ("mul", 0, 2)),
    "relu": (("relu", 0),),
    "relu2": (("relu", 0), ("pow", 1)),
    "relu6": (("hardtanh", 0),),
    "sigmoid": (("sigmoid", 0),),
    "silu": (("silu", 0),),
    "sqrtsoftplus": (("softplus", 0), ("sqrt", 1)),
    "swish": (("silu", 0),),
    "tanh": (("tanh", 0),),
}  # fmt: skip
UNMODELLED_ACTIVATIONS = {"prelu": "it has learned parameters", "xielu": "it has learned parameters"}

_ACTIVATION_SOURCE = {
    "gelu": ("GELUActivation.forward", "return self.act(input)"),
    "gelu_10": ("ClippedGELUActivation.forward", "torch.clip(gelu(x)"),
    "gelu_accurate": ("AccurateGELUActivation.forward", "torch.tanh("),
    "gelu_fast": ("FastGELUActivation.forward", "torch.tanh("),
    "gelu_new": ("NewGELUActivation.forward", "torch.tanh("),
    "gelu_python": ("GELUActivation._gelu_python", "torch.erf("),
    "gelu_python_tanh": ("GELUTanh._gelu_tanh_python", "torch.tanh("),
    "gelu_pytorch_tanh": ("GELUTanh.forward", "return self.act(input)"),
    "laplace": ("LaplaceActivation.forward", "torch.erf("),
    "mish": ("MishActivation.forward", "return self.act(input)"),
    "quick_gelu": ("QuickGELUActivation.forward", "torch.sigmoid("),
    "relu2": ("ReLUSquaredActivation.forward", "torch.square("),
    "sqrtsoftplus": ("SqrtSoftplusActivation.forward", "softplus("),
}


_CLASSES = {
    "hardswish": "Hardswish", "leaky_relu": "LeakyReLU", "linear": "LinearActivation", "relu": "ReLU", "relu6": "ReLU6",
    "sigmoid": "Sigmoid", "silu": "SiLUActivation", "swish": "SiLU", "tanh": "Tanh",
}  # fmt: skip
"""The class of an activation whose own lines are not cited: they are torch's, or trivial."""


def activation_class(name: str) -> str:
    """The class that ACT2FN has for an activation function."""
    return _CLASSES.get(name) or _ACTIVATION_SOURCE[name][0].partition(".")[0]


def check_activation(name: str) -> None:
    """Raise `InputError` for an activation function that is not modelled."""
    if name not in ACTIVATIONS:
        reason = UNMODELLED_ACTIVATIONS.get(name, f"the ones modelled are {', '.join(sorted(ACTIVATIONS))}")
        raise InputError(f"activation_function: {echo(name)} is not modelled: {reason}")


def act(name: str, x: Tensor) -> tuple[Module, Tensor]:
    """The activation function of the MLP, each kernel over (B, T, F)."""
    check_activation(name)
    qualname, fragment = _ACTIVATION_SOURCE.get(name, ("GPT2MLP.forward", "self.act(hidden_states)"))
    source = cite(qualname, fragment, file="modeling_gpt2.py" if qualname.startswith("GPT2") else "activations.py")
    values: tuple[Tensor, ...] = (x,)
    kernels: list[Kernel] = []
    seen: dict[str, int] = {}
    for op, *operands in ACTIVATIONS[name]:
        op = str(op)
        label = op if op not in seen else f"{op}_{seen[op]}"
        seen[op] = seen.get(op, 0) + 1
        out = tensor(f"act.{label}", B, T, F)
        inputs = tuple(values[int(operand)] for operand in operands)
        kernels.append(pointwise(label, op, inputs, out, source, fusion_group="act"))
        values += (out,)
    caller = Free("input", "view", 0, keeps=(x,))
    return Module(
        "act",
        activation_class(name),
        (Free("act", "call", inputs=(x,), outputs=values[-1:]), *kernels, caller),
        passes=x,
    ), values[-1]
