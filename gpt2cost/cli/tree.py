"""`gpt2cost tree`: the model as a tree of its modules."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.checks import check_point
from gpt2cost.cli.choices import choice
from gpt2cost.cli.flags import ChipFlags, ModelFlags, OutputFlags, StrictFlag, WorkFlags, takes
from gpt2cost.cli.given import heed, refuse
from gpt2cost.cli.train_many import TrainRowFlags
from gpt2cost.output.parameters import PARAMETERS
from gpt2cost.output.tree import tree_view
from gpt2cost.output.tree_lines import Shown
from gpt2cost.prediction import model_tree


@takes
def tree(
    *,
    model: ModelFlags,
    device: ChipFlags,
    work: WorkFlags,
    phase: Annotated[
        str,
        choice(
            "--phase",
            model_tree.TREE_PHASES,
            "prefill (the pass of --seq tokens), decode (the next token), or train: a micro-step of --batch sequences.",
        ),
    ] = "prefill",
    training: TrainRowFlags,
    depth: Annotated[int | None, typer.Option("--depth", help="Levels below the model.", show_default="all")] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Add the kernels that each module launches itself.")
    ] = False,
    free: Annotated[bool, typer.Option("--free", help="Add the steps that launch no kernel, such as views.")] = False,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="The parameters by component instead: embeddings, a block, the whole.")
    ] = False,
    strict: StrictFlag = False,
    out: OutputFlags,
) -> None:
    """Show the model as print(model) does, in the order in which it runs: shapes, parameters, FLOPs and bytes.

    With --gpu, the time on the device too. Sums are with all that is in a module; blocks are shown once.
    """
    sink = out.sink()
    if parameters:
        refuse({"depth": depth, "kernels": kernels, "free": free}, "not with --parameters, which shows components")
    if depth is not None:
        check_point("depth", depth, 0)
    found = model_tree.tree(model.load_model(), device.load_any(), phase=phase, **work.work(), **vars(training))
    heed(found.warnings, strict)
    sink.show(PARAMETERS if parameters else tree_view(Shown(depth, kernels, free)), found)
