"""Captured graphs as functions."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bridge._core.op import Specs
from bridge._sources.torch.capture.environment import seeded, settled
from bridge._sources.torch.capture.graph import draws, results
from bridge._sources.torch.code.codegen import attribute, compiled, compiled_into
from bridge._sources.torch.internals import Blocks


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the Ops of one function are made, its derivatives included.

    Attributes:
        capture: `auto`, `require` or `never`, whether it becomes a graph.
        dtype: What torch makes of a Python number in it.
        seed: Position of the argument that random numbers follow from, if there is one.
        listed: Whether Ops are written out, for a target that compiles them.
    """

    capture: str
    dtype: torch.dtype
    seed: int | None = None
    listed: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A captured function.

    Attributes:
        module: Its graph of ATen operators and the constants in it; static and functional.
        outputs: Of its results.
        blocks: What was noted of the function when it was captured.
    """

    module: GraphModule
    outputs: Specs
    blocks: Blocks

    @functools.cached_property
    def run(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The results, by operators that torch can transform."""
        return compiled(self.module)

    @functools.cached_property
    def into(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The same, given tensors for the results first: NOTE [written in place]."""
        return compiled_into(self.module)

    @functools.cached_property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return any(map(draws, self.module.graph.nodes))

    @functools.cached_property
    def foreign(self) -> bool:
        """Whether there are operators that are not torch's own, whose gradients it may lose."""
        found = (getattr(x.target, "namespace", "aten") for x in self.module.graph.nodes)
        return any(name not in ("aten", "prims", "prim") for name in found)

    def text(self) -> str:
        """The graph: operators, how they are connected, and digests of constants."""
        return "\n".join([str(self.module.graph), *map(_digest, self._constants())])

    def _constants(self) -> list[Any]:
        nodes = self.module.graph.find_nodes(op="get_attr")
        return [attribute(self.module, str(node.target)) for node in nodes]

    def reach(self) -> Sequence[frozenset[int]]:
        """For each result the positions of the arguments it depends on."""
        return self._reach

    @functools.cached_property
    def _reach(self) -> list[frozenset[int]]:
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


def executed(program: Program, settings: Settings) -> Callable[..., Any]:
    """The call of an Op: `program` on tensors, random numbers following from their seed."""
    run = settled(program.run, settings.dtype)
    seed = settings.seed
    return run if seed is None or not program.draws else seeded(run, seed)


def written(program: Program, settings: Settings) -> Callable[..., Any]:
    """The same for an Op's `into`."""

    def into(places: Sequence[torch.Tensor], primals: Sequence[torch.Tensor]) -> Any:
        run = settled(functools.partial(program.into, *places), settings.dtype)
        seed = settings.seed
        return (run if seed is None or not program.draws else seeded(run, seed))(*primals)

    return into
