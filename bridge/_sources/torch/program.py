"""Captured graphs as functions."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bridge._core.op import Specs
from bridge._sources.torch.capture.environment import in_clean_state, with_seed
from bridge._sources.torch.capture.graph import is_random, results
from bridge._sources.torch.code.codegen import compile_graph, compile_graph_into, get_attribute
from bridge._sources.torch.internals import GradientObserver


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the Ops of one function are made, its derivatives included.

    Attributes:
        capture: `auto`, `require` or `never`, whether it becomes a graph.
        dtype: What torch makes of a Python number in it.
        seed: Position of the argument that random numbers follow from, if there is one.
        exports_graph: Whether Ops are written out, for a target that compiles them.
    """

    capture: str
    dtype: torch.dtype
    seed: int | None = None
    exports_graph: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A captured function.

    Attributes:
        module: Its graph of ATen operators and the constants in it; static and functional.
        outputs: Of its results.
        observer: What was noted of the function when it was captured.
        unrecorded: Positions of the results that torch records no gradient of.
    """

    module: GraphModule
    outputs: Specs
    observer: GradientObserver
    unrecorded: frozenset[int] = frozenset()

    @functools.cached_property
    def run(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The results, by operators that torch can transform."""
        return compile_graph(self.module)

    @functools.cached_property
    def run_into(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The same, given tensors for the results first: NOTE [written in place]."""
        return compile_graph_into(self.module)

    @functools.cached_property
    def uses_rng(self) -> bool:
        """Whether random numbers are drawn."""
        return any(map(is_random, self.module.graph.nodes))

    @functools.cached_property
    def has_custom_ops(self) -> bool:
        """Whether there are operators that are not torch's own, whose gradients it may lose."""
        found = (getattr(x.target, "namespace", "aten") for x in self.module.graph.nodes)
        return any(name not in ("aten", "prims", "prim") for name in found)

    def fingerprint(self) -> str:
        """The graph: operators, how they are connected, and digests of constants."""
        return "\n".join([str(self.module.graph), *map(_digest, self._constants())])

    def _constants(self) -> list[Any]:
        nodes = self.module.graph.find_nodes(op="get_attr")
        return [get_attribute(self.module, str(node.target)) for node in nodes]

    def dependencies(self) -> Sequence[frozenset[int]]:
        """For each result the positions of the arguments it depends on."""
        return self._dependencies

    @functools.cached_property
    def _dependencies(self) -> list[frozenset[int]]:
        graph = self.module.graph
        known: dict[Node, frozenset[int]] = {
            node: frozenset([i]) for i, node in enumerate(graph.find_nodes(op="placeholder"))
        }
        for node in graph.nodes:
            inputs = [] if node.target in _BY_SHAPE else [known[x] for x in node.all_input_nodes]
            known.setdefault(node, frozenset[int]().union(*inputs))
        return [known[node] for node in results(graph)]


def _digest(x: Any) -> str:
    """What tells constants apart."""
    if not isinstance(x, torch.Tensor):
        return str(x)
    plain = x.cpu().resolve_conj().resolve_neg().contiguous()
    words = torch.view_as_real(plain) if plain.is_complex() else plain
    found = hashlib.sha256(words.reshape(-1).view(torch.uint8).numpy().data)
    return f"{x.dtype} {list(x.shape)} {found.hexdigest()}"


_aten: Any = torch.ops.aten
# Operators that take a tensor for its shape and dtype only.
_BY_SHAPE = {
    *(_aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default),
    *(_aten.empty_like.default, _aten.new_zeros.default, _aten.new_ones.default),
    *(_aten.new_full.default, _aten.new_empty.default, _aten.new_empty_strided.default),
}


def make_call(program: Program, settings: Settings) -> Callable[..., Any]:
    """The call of an Op: `program` on tensors, random numbers following from their seed."""
    run = in_clean_state(program.run, settings.dtype)
    seed = settings.seed
    return run if seed is None or not program.uses_rng else with_seed(run, seed)


def make_call_into(program: Program, settings: Settings) -> Callable[..., Any]:
    """The same for an Op's `into`."""

    def into(places: Sequence[torch.Tensor], primals: Sequence[torch.Tensor]) -> Any:
        run = in_clean_state(functools.partial(program.run_into, *places), settings.dtype)
        seed = settings.seed
        return (run if seed is None or not program.uses_rng else with_seed(run, seed))(*primals)

    return into
