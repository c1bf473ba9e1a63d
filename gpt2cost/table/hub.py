"""A model's config from huggingface.co, or from transformers' copy of what was downloaded before."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from pathlib import Path
from textwrap import shorten
from typing import Any

from gpt2cost.errors import InputError
from gpt2cost.files import is_folder

PATIENCE_S = 5.0
"""So long the hub may take to answer."""


def config_of(config: Any) -> Any:
    """What a live `GPT2Config` says, with the attention implementation, which its `to_dict` leaves out."""
    attn = getattr(config, "_attn_implementation_internal", None)  # transformers 4's property has eager for none
    own = config.to_dict()
    return {**own, "attn_implementation": attn} if isinstance(own, dict) and attn is not None else own


def hub_config(name: str) -> Any:
    """The `GPT2Config` of a hub id: of the cache where it is there, else of the hub, within `PATIENCE_S`.

    Raises `InputError` where there is none; at once where the name is that of a folder that is not there.
    """
    folder = name.split("/")[0]
    if is_folder(Path(folder)):
        raise InputError(f"{name}: no such folder, though {folder} is there; a hub id is looked up elsewhere")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            from transformers import GPT2Config
            from transformers.utils import logging
        except ImportError:
            raise InputError(f"{name}: no such folder; to look it up on huggingface.co, install transformers") from None
        logging.set_verbosity_error()
        with contextlib.suppress(Exception):  # whatever transformers raises where it is not in the cache
            return GPT2Config.from_pretrained(name, local_files_only=True)
        return _asked(name, GPT2Config)


def _asked(name: str, cls: Any) -> Any:
    """The answer of the hub, which a thread of its own waits for: the client tries again for half a minute."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(cls.from_pretrained(name))
        except Exception as error:  # whatever transformers or the hub client raises is about this name
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not answer:
        raise InputError(
            f"{name}: no such folder, and no answer from huggingface.co in {PATIENCE_S:.0f} s, where a hub id is"
            " looked up"
        )
    if isinstance(answer[0], Exception):
        lines = [line.strip() for line in str(answer[0]).split("\n")]
        reason = " ".join(line for line in lines if line) or type(answer[0]).__name__
        reason = shorten(reason, 200, placeholder=" ...")
        raise InputError(f"{name}: no such folder, and cannot load the config from huggingface.co: {reason}")
    return answer[0]
