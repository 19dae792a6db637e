"""The layers of a model and what feeds what, as they run: branches, skips and residuals too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_weightwatch.model.compiled import as_written
from lightning_weightwatch.model.meta import batch_on_meta, copied, on_meta
from lightning_weightwatch.model.operations import keeps_channels
from lightning_weightwatch.model.running import (
    CannotRun,
    Run,
    device_of,
    dtype_of,
    has_forward,
    run_on_batch,
    to_device,
    without_a_trace,
)
from lightning_weightwatch.model.trace_steps import StepKind, Wiring
from lightning_weightwatch.model.tracing import Tracer


@dataclass(frozen=True)
class Node:
    """A layer that ran, or what joins the outputs of several.

    Attributes:
        name: Path of the layer, with ` (2)` for its second call; `"output"`; of an input, or a
            junction, its operation with a number from the second one on: `input`, `add`, `add_2`.
        kind: That of the layer's weight, or `"input"`, `"output"`, `"junction"`.
        operation: Class of the layer, or `add`, `cat`, `mul`, `matmul`, `attention` and so on.
        outputs: Channels or features that it gives, None where that is not known.
        inputs: Those that it takes.
    """

    name: str
    kind: StepKind
    operation: str
    outputs: int | None
    inputs: int | None = None


@dataclass(frozen=True)
class Graph:
    """What feeds what.

    Attributes:
        nodes: In the order in which they ran; what is used of the batch first, the output last.
        edges: (from, to) as positions in `nodes`, each once, from < to; in the order of `to`, those
            into one node in the order in which its function was given them.
        wirings: Of an edge, which output of the first node each input of the second is, counted
            from 0, and -1 for those that come from elsewhere; of a junction's inputs as many as it
            has outputs. Absent where that is not exactly known, as behind `view` and `permute` of
            what was no channel.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    wirings: Mapping[tuple[int, int], Wiring] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes that are layers."""
        return tuple(node for node in self.nodes if is_layer(node))

    def feeding(self, name: str) -> tuple[Node, ...]:
        """The layers of whose output channels the inputs of a layer are made, in order.

        Those that feed it, and those that feed a sum or product of elements that does. What comes
        through `cat`, `matmul` or `attention` has other channels.

        Raises:
            KeyError: If no layer has that name.
        """
        found = [at for at, node in enumerate(self.nodes) if node.name == name and is_layer(node)]
        if not found:
            raise KeyError(
                f"no layer {name!r} ran; those that did: "
                + ", ".join(node.name for node in self.layers)
            )
        feeding: set[int] = set()
        open_ends = [found[0]]
        seen: set[int] = set()
        while open_ends:
            at = open_ends.pop()
            for source in (start for start, end in self.edges if end == at):
                node = self.nodes[source]
                if is_layer(node):
                    feeding.add(source)
                elif keeps_channels(node.operation) and source not in seen:
                    seen.add(source)
                    open_ends.append(source)
        return tuple(self.nodes[at] for at in sorted(feeding))


def is_layer(node: Node) -> bool:
    """Whether a node is a layer with weights."""
    return node.kind not in ("input", "output", "junction")


def trace(model: nn.Module, batch: Any, *, run: Run | None = None) -> Graph:
    """Which layers a model runs for a batch, and what each of them is fed by.

    A layer is a module with a weight of two dimensions or more, as a whole; a function that takes
    a parameter in place of a module, as `F.linear`, is one, too. Norms, activations, pooling,
    dropout and all that turns sizes around pass on what they get. A function of the outputs of
    two or more layers is a junction; masks and indices are no outputs. A layer that is called
    again is a node of its own; from its fifth call on, in a loop over a sequence, it is its
    fourth.

    The model runs once, in evaluation mode: a copy without values on the meta device, which takes
    next to no time and memory; the model itself on the batch where that fails, or a copy of it
    where it has no `forward`. Neither the model nor random numbers are changed.

    Args:
        model: The model, a LightningModule without `forward` too: `run_on_batch` says how it runs.
        batch: As it comes from a loader.
        run: Runs the model on the batch where that cannot be told from the batch.

    Raises:
        CannotRun: If the forward pass fails, or the model has lazy parameters.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> graph = trace(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)),
        ...               torch.zeros(1, 2))
        >>> [node.name for node in graph.nodes], graph.edges
        (['input', '0', '2', 'output'], ((0, 1), (1, 2), (2, 3)))
    """
    run = run or run_on_batch
    inner = getattr(model, "_orig_mod", model)
    model = inner if isinstance(inner, nn.Module) else model
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise CannotRun(
            f"{type(model).__name__} has lazy parameters, which its first run would make; "
            "run it on a batch once before"
        )
    forward = run is not run_on_batch or has_forward(model)
    try:
        return _followed(on_meta(model), batch_on_meta(batch), run)
    except Exception:  # whatever a model does that needs values
        running = model if forward else copied(model)  # a step may change anything
        return _followed(running, to_device(batch, device_of(model), dtype_of(model)), run)


def trace_without_values(model: nn.Module, batch: Any) -> Graph:
    """The same of a copy on the meta device alone: in the midst of a fit nothing is run.

    Raises:
        CannotRun: If it cannot be copied, or does not run there.
    """
    try:
        return _followed(on_meta(model), batch_on_meta(batch), run_on_batch)
    except CannotRun:
        raise
    except Exception as fault:
        raise CannotRun(f"{type(fault).__name__}: {fault}") from fault


def _followed(model: nn.Module, batch: Any, run: Run) -> Graph:
    """The graph of a model that runs as it is."""
    tracer = Tracer(model, batch)
    try:
        with without_a_trace(model), as_written(), tracer:
            output = run(model, batch)
    except CannotRun:
        raise
    except Exception as error:
        last = tracer.steps[-1].name or tracer.steps[-1].operation
        raise CannotRun(
            f"the forward pass of {type(model).__name__} failed after {last}: {error}"
        ) from error
    steps = tracer.finish(output)
    nodes = (Node(s.name, s.kind, s.operation, s.outputs, s.inputs) for s in steps)
    edges = ((source, at) for at, step in enumerate(steps) for source in step.sources)
    wirings = {
        (source, at): how
        for at, step in enumerate(steps)
        for source, how in step.wirings.items()
        if how is not None and source in step.sources
    }
    return Graph(tuple(nodes), tuple(edges), wirings)
