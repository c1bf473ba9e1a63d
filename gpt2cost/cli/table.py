"""`gpt2cost table`: the cost table itself."""

from __future__ import annotations

from gpt2cost.cli.flags import ModelFlags, OutputFlags, WorkFlags, takes
from gpt2cost.output.table import TABLE, CostTable
from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.settings import check_cached, check_implementation


@takes
def table(*, model: ModelFlags, work: WorkFlags, out: OutputFlags) -> None:
    """Print the cost table symbolically: each kernel's formulas and the source line they stand for.

    With --model, its kernels with their numbers at the sizes given.
    """
    sink, how, sizes = out.sink(), work.how(), work.sizes()
    loaded = model.load_model(default="gpt2")
    how = how.on(loaded)
    check_implementation(how)
    check_cached(loaded, how, sizes)
    rows = table_rows(table_options(loaded, how), how.runtime)
    symbols = None if model.model is None else symbol_values(loaded, how.dtype, sizes)
    sink.show(TABLE, CostTable(how.attn, how.impl or loaded.impl, rows, symbols))
