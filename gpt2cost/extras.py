"""The extra that measuring needs: torch, which predicting does without."""

from __future__ import annotations

from gpt2cost.errors import InputError


def need_torch(command: str) -> None:
    """Raise `InputError` that says how to install torch, where `command` needs it and it cannot be imported."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError(f'{command} needs torch: pip install "gpt2cost[measure]"') from None


def need_scipy(command: str) -> None:
    """Raise `InputError` that says how to install scipy, where `command` fits constants and it cannot be imported."""
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise InputError(f'{command} needs scipy: pip install "gpt2cost[measure]"') from None
