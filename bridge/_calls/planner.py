"""The making of plans: from the arguments of a call to an Op and a native function."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls import arguments, export_key
from bridge._calls.batches import Batches
from bridge._calls.changing_buffers import copy_changing_buffers
from bridge._calls.executor import make_executor, make_lowering_executor
from bridge._calls.flat_function import ARRAY, FlatFunction
from bridge._calls.plan import LeafInfo, Plan
from bridge._calls.random_keys import rng_positions
from bridge._core import pytree
from bridge._core.errors import ArgumentError, NoValuesError
from bridge._core.function_protocols import ExportKey
from bridge._core.op import Op, Specs
from bridge._core.protocols import SEED, Executor, Source, Target
from bridge._core.pure_module import PureModule


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Planner:
    """Makes the plans of one bridged function.

    Attributes:
        fn: The user's function.
        name: Its name in errors.
        frameworks: The names of its source and of its target.
        parameters: Its parameters.
        takes_key: True if a call may have a key for random numbers, `rng=`.
        device: The device that the user asked it to compute on, if any.
        options: The options of its source.
        batches: The batches that the function is mapped over.
        bridged: Returns the bridged function, or None once it is deleted.
        leaf_handlers: The handlers of leaves, by the classes that were seen so far.
    """

    fn: Callable[..., Any]
    name: str
    frameworks: tuple[str, str]
    parameters: arguments.Parameters
    takes_key: bool
    device: str | None
    options: dict[str, Any]
    batches: Batches
    bridged: Callable[[], Any]
    leaf_handlers: dict[type, arguments.LeafHandler] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def source(self) -> Source:
        """The framework of the user's function."""
        return _registry.source(self.frameworks[0])

    @functools.cached_property
    def target(self) -> Target:
        """The framework that it is called from."""
        return _registry.target(self.frameworks[1])

    @property
    def is_lowered(self) -> bool:
        """True if the function becomes code of the caller's framework, which then computes."""
        return self.options.get("lower") == "aten"

    def describe_leaves(self, leaves: Sequence[Any], structure: Any) -> list[LeafInfo]:
        """Describe the leaves of arguments; raise if one cannot be an argument."""
        paths = pytree.paths(structure)
        return [self._describe(leaf, path) for leaf, path in zip(leaves, paths, strict=True)]

    def _describe(self, leaf: Any, path: Sequence[Any]) -> LeafInfo:
        label = self.parameters.argument_name(path)
        source_name, target_name = self.frameworks
        try:
            if self.target.needs_staging(leaf):
                signature, spec = self.target.staged_signature_and_spec(leaf)
                handler = arguments.LeafHandler(id, owner=target_name)
                return LeafInfo(label, signature, spec, handler)
            handler = self.leaf_handlers.get(leaf.__class__)
            if handler is None:
                traces_scalars = self.source.traces_scalars
                handler = arguments.leaf_handler(
                    leaf, source_name, target_name, traces_scalars=traces_scalars
                )
            is_key = label == SEED and self.takes_key
            if handler.spec is None and not is_key:  # a key of no array is refused later
                with pytree.forgetting_refused(leaf):
                    arguments.check_static(leaf, target_name)
            # Before the signature: a leaf that its spec refuses may have none.
            spec = handler.spec and handler.spec(leaf)
            if spec and handler.owner == target_name:
                _registry.source_arrays(source_name).check_dtype(spec.dtype)
            leaf_info = LeafInfo(label, handler.signature(leaf), spec, handler)
        except (ArgumentError, NoValuesError) as error:
            raise type(error)(f"argument {label} of {self.name}: {error}") from None
        # Stored only now: a tensor that its spec refuses can have the signature of another.
        self.leaf_handlers[leaf.__class__] = handler
        return leaf_info

    def make_plan(
        self, leaves: Sequence[Any], structure: Any, leaf_infos: Sequence[LeafInfo]
    ) -> Plan:
        """Make the plan for arguments that `leaf_infos` describe; this traces the function."""
        plan = self._make_plan(leaves, structure, leaf_infos)
        copy = self.target.copy_before_write
        if copy is None or not isinstance(self.fn, PureModule):
            return plan
        return copy_changing_buffers(plan, structure, copy)

    def _make_plan(
        self, leaves: Sequence[Any], structure: Any, leaf_infos: Sequence[LeafInfo]
    ) -> Plan:
        array_infos = [info for info in leaf_infos if info.spec is not None]
        constants = [
            arguments.unwrap_static(leaf) if info.spec is None else ARRAY
            for leaf, info in zip(leaves, leaf_infos, strict=True)
        ]
        seeds = self._rng_positions(leaf_infos, array_infos)
        flat = FlatFunction(
            self.fn,
            self.name,
            self.frameworks,
            structure,
            constants,
            seeded=bool(seeds) and not self._passes_rng(),
        )
        device = self._common_device(array_infos)
        op = self._make_op(flat, structure, leaf_infos, seeds)
        executor = self._make_executor(device)
        described = [info.spec or value for info, value in zip(leaf_infos, constants, strict=True)]
        array_leaves = self._array_leaves(leaf_infos)
        return Plan(
            op=op,
            executor=executor,
            primals=_specs(array_infos),
            native=self.target.make_native(op, executor, self._export_key(structure, described)),
            flat=flat,
            array_leaves=array_leaves,
            passthrough=len(array_leaves) == len(leaves)
            and not any(prepare for _, prepare in array_leaves),
            device=device,
        )

    def _make_op(
        self,
        flat: FlatFunction,
        structure: Any,
        leaf_infos: Sequence[LeafInfo],
        seeds: Sequence[int],
    ) -> Op:
        pairs = zip(leaf_infos, pytree.paths(structure), strict=True)
        arrays = [(info, path) for info, path in pairs if info.spec]
        infos, paths = [info for info, _ in arrays], [path for _, path in arrays]
        specs, batches = self.batches.example_specs(infos, paths, self.name)
        op = self.source.make_op(
            flat,
            name=self.name,
            primals=specs,
            argument_names=[info.name for info in infos],
            **({"seed_argnum": seeds[0]} if seeds else {}),
            **self.options,
        )
        return op if op.traits.uses_global_rng else self.batches.derive(op, batches)

    def _array_leaves(
        self, leaf_infos: Sequence[LeafInfo]
    ) -> list[tuple[int, Callable[[Any], Any] | None]]:
        """Return the positions of arrays, each with what is applied to it first."""
        infos = enumerate(leaf_infos)
        return [(i, info.make_prepare(self.name)) for i, info in infos if info.spec]

    def _export_key(self, structure: Any, described: Sequence[Any]) -> ExportKey:
        context = str(self.source.trace_context())
        return functools.partial(export_key.export_key, self.bridged, context, structure, described)

    def _rng_positions(
        self, leaf_infos: Sequence[LeafInfo], array_infos: Sequence[LeafInfo]
    ) -> list[int]:
        if not self.takes_key:  # `rng` is an argument like others
            return []
        return rng_positions(self.name, leaf_infos, array_infos)

    def _passes_rng(self) -> bool:
        return _registry.outline(self.frameworks[0]).passes_rng(self.fn)

    def _make_executor(self, device: str) -> Executor:
        """Make the executor of Ops for the caller's arrays, which are on `device`."""
        if self.is_lowered:
            return make_lowering_executor(*self.frameworks)
        compute_device = device
        if device != "meta":
            compute_device = self.source.choose_compute_device(device, self.device)
        return make_executor(*self.frameworks, device=device, compute_device=compute_device)

    def _common_device(self, array_infos: Sequence[LeafInfo]) -> str:
        """Return the device of the caller's arrays; raise if they are on several."""
        devices = {
            info.spec.device: info.name
            for info in array_infos
            if info.spec and info.handler.owner == self.frameworks[1]
        }
        if len(devices) > 1:
            places = ", ".join(f"{label} on {device}" for device, label in devices.items())
            raise ArgumentError(f"arguments of {self.name} are on different devices: {places}.")
        return next(iter(devices), self.device or "cpu")


def _specs(leaf_infos: Sequence[LeafInfo]) -> Specs:
    return tuple(info.spec for info in leaf_infos if info.spec)
