"""Records of passes as tests need them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2cost import predict
from gpt2cost.measure.records import Measurement


def planted(model: str = "gpt2", factor: float = 1.1, **changes: Any) -> dict[str, Any]:
    """A record of a pass that took `factor` times what is predicted."""
    case = {"model": model, "batch": 8, "seq": 128, "cache": 0, "dtype": "fp16", "attn": "sdpa", **changes}
    kind = case.pop("kind", "pass")
    runtime = {"pass_graph": "cuda-graph", "pass_compile": "compile"}.get(kind, case.get("runtime", "eager"))
    if (runtime, case.get("mode")) == ("compile", "reduce-overhead"):
        runtime = "reduce-overhead"
    keys = ("batch", "seq", "cache", "dtype", "attn", "use_cache")
    given = {key: case[key] for key in keys if key in case}
    predicted = predict(model, "a100", **given, runtime=runtime, phase="prefill").phases[0].totals.latency_s
    return {"kind": kind, **case, "graph_us" if kind == "pass_graph" else "wall_us": 1e6 * factor * predicted}


def written(folder: Path, records: Sequence[Measurement]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "models.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder
