"""Programs: captured graphs as functions."""

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
from bridge._sources.torch.code.codegen import (
    compile_graph,
    compile_graph_into,
    compile_graph_of_any_strides,
    graph_constants,
)
from bridge._sources.torch.gradient_observer import GradientObserver
from bridge._sources.torch.integers import advising


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options for the Ops of one function and of its derivatives.

    Attributes:
        capture: `auto`, `require` or `never`: whether the function is captured as a graph.
        dtype: The default dtype, that of a Python number in the function.
        seed_argnum: The position of the argument that random numbers follow from, if there is one.
        exports_graph: True if Ops have a neutral graph, for a target that compiles it.
        narrow_argnums: The positions of arguments that are integers of 32 bits, and stay so.
    """

    capture: str
    dtype: torch.dtype
    seed_argnum: int | None = None
    exports_graph: bool = False
    narrow_argnums: Sequence[int] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A captured function.

    Attributes:
        module: The graph of ATen operators, functional and with static shapes, and its constants.
        outputs: The specs of its outputs.
        observer: Notes on gradients, made when the function was captured.
        unrecorded: Positions of the outputs that torch records no gradient of.
    """

    module: GraphModule
    outputs: Specs
    observer: GradientObserver
    unrecorded: frozenset[int] = frozenset()

    @functools.cached_property
    def run(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The graph as a function, of operators that torch can transform."""
        return compile_graph(self.module)

    @functools.cached_property
    def run_for_batches(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The graph as a function for `torch.func.vmap`."""
        return compile_graph_of_any_strides(self.module)

    @functools.cached_property
    def run_into(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The graph as a function of output buffers, then inputs: NOTE [written in place]."""
        return compile_graph_into(self.module)

    @functools.cached_property
    def uses_rng(self) -> bool:
        """True if it draws random numbers."""
        return any(map(is_random, self.module.graph.nodes))

    @functools.cached_property
    def has_custom_ops(self) -> bool:
        """True if there are operators of users, whose gradients torch.func may lose."""
        namespaces = (getattr(x.target, "namespace", "aten") for x in self.module.graph.nodes)
        return any(name not in ("aten", "prims", "prim") for name in namespaces)

    def fingerprint(self) -> str:
        """Return the graph as text, with digests of its constants."""
        digests = [_digest(x) for _, x in graph_constants(self.module)]
        return "\n".join([str(self.module.graph), *digests])

    def dependencies(self) -> Sequence[frozenset[int]]:
        """Return for each output the positions of the arguments that it depends on."""
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
    """Return a text that differs for constants that differ."""
    if not isinstance(x, torch.Tensor):
        return str(x)
    plain = x.cpu().resolve_conj().resolve_neg().contiguous()
    words = torch.view_as_real(plain) if plain.is_complex() else plain
    digest = hashlib.sha256(words.reshape(-1).view(torch.uint8).numpy().data)
    return f"{x.dtype} {list(x.shape)} {digest.hexdigest()}"


_aten: Any = torch.ops.aten
# Operators that use only the shape and dtype of a tensor.
_BY_SHAPE = {
    *(_aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default),
    *(_aten.empty_like.default, _aten.new_zeros.default, _aten.new_ones.default),
    *(_aten.new_full.default, _aten.new_empty.default, _aten.new_empty_strided.default),
}


def make_call(program: Program, settings: Settings) -> Callable[..., Any]:
    """Make the `call` of an Op from `program`; random numbers follow from its seed."""
    run = advising(in_clean_state(program.run, settings.dtype), settings.narrow_argnums)
    return _seeded(run, program, settings.seed_argnum)


def make_call_into(program: Program, settings: Settings) -> Callable[..., Any]:
    """Make the `call_into` of an Op from `program`; random numbers follow from its seed."""
    seed_argnum = settings.seed_argnum
    if seed_argnum is not None:
        seed_argnum += len(results(program.module.graph))  # behind the buffers

    @functools.cache
    def run() -> Callable[..., Any]:
        run_into = in_clean_state(program.run_into, settings.dtype)
        return _seeded(advising(run_into, settings.narrow_argnums), program, seed_argnum)

    return lambda buffers, primals: run()(*buffers, *primals)


def _seeded(
    run: Callable[..., Any], program: Program, seed_argnum: int | None
) -> Callable[..., Any]:
    return run if seed_argnum is None or not program.uses_rng else with_seed(run, seed_argnum)
