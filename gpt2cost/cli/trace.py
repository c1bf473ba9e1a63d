"""`gpt2cost trace`: a predicted run for a trace viewer."""

from __future__ import annotations

from gpt2cost.cli.flags import OutputFlag, PhaseFlag, RunFlags, takes
from gpt2cost.output.chrome_trace import chrome_trace
from gpt2cost.output.formats import to_json
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.predict import predict_run


@takes
def trace(*, run: RunFlags, phase: PhaseFlag = "both", output: OutputFlag = None) -> None:
    """Write a predicted run as Chrome trace events: open it in Perfetto, or beside a torch.profiler export."""
    sink = Sink(None, output, ("json",))
    prediction = predict_run(run.load_model(), run.load_device(), run.how(), run.sizes(), phase)
    print_warnings(prediction.warnings)
    sink.stream([to_json(chrome_trace(prediction))])
