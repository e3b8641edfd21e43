"""A function of one framework that is called from another."""

import functools
import threading
import types
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bridge import _registry
from bridge._calls import arguments, executor, export_key
from bridge._calls.plan import ARRAY, SEED, FlatFunction, LeafInfo, Plan, missing_key_error
from bridge._calls.retracing import RetraceCounter
from bridge._calls.staged_call import StagedCall
from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError, NoValuesError, OptionError
from bridge._core.op import Op
from bridge._core.protocols import ExecuteInto
from bridge._core.tracebacks import entry_point, shorten_traceback

if TYPE_CHECKING:
    from bridge._calls.rewrapping import WrapperCounter

# NOTE [rows of arguments]
# Taking apart the arguments and hashing their structure costs more than all else that a call does
# on this side. Where all arguments are positional, and of classes that were leaves before, there
# is nothing to take apart, and their number stands for the structure.
_MOST_PLANS = 256  # of 3 MB each, which XLA takes for two small programs


def _structure_key(structure: Any, count: int) -> Any:
    """What stands for a structure in the key of a plan: NOTE [rows of arguments]."""
    return count if structure == pytree.args_structure(count) else structure


class BridgedFunction:
    """A function of one framework that is called from another; `jax2torch` makes them."""

    __name__: str
    __wrapped__: Callable[..., Any]

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        direction: tuple[str, str],
        static: tuple[Sequence[int], Sequence[str]],
        device: str | None,
        options: dict[str, Any],
    ) -> None:
        self._source_name, self._target_name = direction
        if not callable(fn):
            raise ArgumentError(
                f"{self._source_name}2{self._target_name} expects a function, but got a "
                f"{type(fn).__name__}. Values are converted by bridge.to_{self._target_name}."
            )
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn
        self._name = self.__name__ = import_path.function_name(fn)
        self._source = _registry.source(self._source_name)
        self._target = _registry.target(self._target_name)
        self._trace_context = self._source.trace_context
        self._source.check_options(**options)
        if device is not None:
            self._source.check_device(device)
        self._device, self._options = device, options
        self._static = static
        self._parameters = arguments.parameters(fn, *static)
        self._supports_rng, self._uses_rng = self._source.supports_rng, False
        if self._supports_rng and SEED in self._parameters.every:
            raise OptionError(
                f"{self._name} has a parameter `{SEED}`, which is how the bridged function takes "
                "its key for random numbers. Give the parameter another name."
            )
        self._leaf_handlers: dict[type, arguments.LeafHandler] = {}
        self._plans: dict[Any, Plan] = {}
        self._retraces = RetraceCounter(self._name)
        self._lock = threading.RLock()
        self.wrapping: WrapperCounter | None = None
        self.staged_function: Any = None
        self.graph_objects: list[Any] = []
        self.graph_constants = types.SimpleNamespace()

    def captured_values(self) -> list[Any]:
        """The function itself, where a function that calls it is looked into."""
        return [self._fn]

    @property
    def target_name(self) -> str:
        """The framework that it is called from."""
        return self._target_name

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        chosen = sorted(
            set[str]().union(*(p.op.residual_strategies() for p in self._plans.values()))
        )
        taken = f", derivatives so far: {' and '.join(chosen)}" if chosen else ""
        return f"<{self._source_name}2{self._target_name} {self._name} ({options}){taken}>"

    def __reduce__(self) -> Any:
        place = import_path.import_path(self)
        if place is not None:
            return place.partition(":")[2]
        options = {"direction": (self._source_name, self._target_name), "static": self._static}
        options |= {"device": self._device, "options": self._options}
        return functools.partial(BridgedFunction, **options), (self._fn,)

    def __copy__(self) -> "BridgedFunction":
        return self

    def __deepcopy__(self, _: Any) -> "BridgedFunction":
        return self  # as functions are, with what has been traced

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self._target.is_compiling():  # Dynamo does not know methods that are no functions
            return functools.partial(self, instance)
        return types.MethodType(self, instance)

    @entry_point
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._target.is_compiling():
            return self._target.call_in_compiled_code(self, args, kwargs)
        try:
            plan = None if kwargs or self._parameters.static else self._cached_plan(args, len(args))
            if plan is not None:  # NOTE [rows of arguments]
                outputs = plan.native(*(args if plan.passthrough else plan.select_arrays(args)))
                return plan.flat.build(outputs)  # not before: without a trace it is known only now
            return self._call_anew(args, kwargs)
        except Exception as error:
            shorten_traceback(error)
            raise

    def _call_anew(self, args: Any, kwargs: Any) -> Any:
        """The results of a call that may be the first of its kind."""
        args, kwargs = self._normalize(args, kwargs)
        leaves, structure = pytree.flatten_known((args, kwargs))
        plan = self._cached_plan(leaves, _structure_key(structure, len(leaves)))
        if plan is None:
            leaves, structure = pytree.flatten((args, kwargs), _registry.pytree_node)
            if any(self._target.is_staged(leaf) for leaf in leaves):
                outputs, structure = self._target.stage(self, args, kwargs)
                return pytree.unflatten(structure, outputs)
            plan = self._get_plan(leaves, structure)
            if plan.op.uses_rng:
                return self._call_with_new_seed(args, kwargs)
        return plan(leaves)

    def _normalize(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with static ones marked, and with a key if there has to be one."""
        if self._parameters.static:
            args, kwargs = self._parameters.wrap_static(args, kwargs)
        if self._supports_rng and kwargs.get(SEED, self) is None:  # as if it had not been passed
            kwargs = {name: value for name, value in kwargs.items() if name != SEED}
        if SEED in kwargs and self._supports_rng:
            kwargs = {**kwargs, SEED: self._target.rng_seed(kwargs[SEED])}
        elif self._uses_rng:
            kwargs = {**kwargs, SEED: self._target.fresh_seed()}
        # Keyword arguments are one call in whatever order.
        return args, dict(sorted(kwargs.items())) if len(kwargs) > 1 else kwargs

    def _call_with_new_seed(self, args: Any, kwargs: Any) -> Any:
        """The results of a function that has turned out to draw random numbers."""
        key = self._target.fresh_seed()
        if key is None:
            raise missing_key_error(self._name)
        self._uses_rng = True
        return self(*args, **{**kwargs, SEED: key})

    def _cached_plan(self, leaves: Sequence[Any], form: Any) -> Plan | None:
        """The plan for these leaves of a structure of this form, if there is one."""
        kinds = self._leaf_handlers
        try:
            signatures = [kinds[leaf.__class__].signature(leaf) for leaf in leaves]
        except (KeyError, RuntimeError, ArgumentError):
            return None  # found out again where the argument has a name
        return self._plans.get((form, self._trace_context(), *signatures))

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """The leaves of the arguments, static ones wrapped, and their structure."""
        args, kwargs = self._parameters.wrap_static(args, kwargs)
        return pytree.flatten((args, dict(sorted(kwargs.items()))), _registry.pytree_node)

    def unwrap_leaves(self, leaves: Sequence[Any]) -> list[Any]:
        """These leaves as they were passed, static ones too."""
        return [*map(arguments.unwrap_static, leaves)]

    def record_call(self, args: Any, kwargs: Any) -> StagedCall:
        """A call with these arguments, for a graph."""
        leaves, structure = self.flatten(args, kwargs)
        plan = self._get_plan(leaves, structure)
        if plan.op.uses_rng:  # a graph would draw again where it is run again
            raise missing_key_error(self._name)
        if unsupported := plan.flat.unsupported():
            raise ArgumentError(
                f"{unsupported}, where a graph holds tensors alone. Return its data, and make a "
                "key of that where it comes in: jax.random.key_data, jax.random.wrap_key_data."
            )
        owners = [_registry.array_owner(leaves[i]) for i, _ in plan.array_leaves]
        arrays = [i for i, face in enumerate(owners) if face and face.name == self._target_name]
        shapes = functools.partial(self._source.symbolic_shapes, **self._options)
        return StagedCall(plan, plan.select_arrays(leaves), arrays, shapes)

    def _get_plan(self, leaves: Sequence[Any], structure: Any) -> Plan:
        """A new plan for arguments like these, kept if it is a trace."""
        with self._target.suspend_transforms():
            paths = pytree.paths(structure)
            described = [self._describe(x, path) for x, path in zip(leaves, paths, strict=True)]
            form = _structure_key(structure, len(leaves))
            key = (form, self._source.trace_context(), *(leaf.signature for leaf in described))
            if not self._options.get("jit", True):
                return self._make_plan(leaves, structure, described)
            with self._lock:  # a trace can take minutes: threads that want the same one wait
                plan = self._plans.get(key)
                if plan is None:
                    plan = self._make_plan(leaves, structure, described)
                    if plan.op.uses_rng:
                        return plan  # which is called with a key, or not at all
                    self._store_plan(key, plan)
                    if self.wrapping is not None:
                        self.wrapping.record_trace()
                    options = self._options
                    if options.get("capture") != "never" and options.get("compile", True):
                        self._retraces.record(described)
                return plan

    def _store_plan(self, key: Any, plan: Plan) -> None:
        while len(self._plans) >= _MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan

    def rebuild(self, trace_context: str, arguments: str) -> tuple[Op, ExecuteInto]:
        """Return the Op for arguments that another process described, and what executes it."""
        own_context = str(self._source.trace_context())
        if own_context != trace_context:
            raise ArgumentError(
                f"a program that calls {self._name} was made where the default dtype of "
                f"{self._source_name} was {trace_context}, and here it is "
                f"{own_context}. Set it, or export it again."
            )
        with self._lock:
            plan = self._plans.get((trace_context, arguments))
            if plan is None:
                leaves, structure = export_key.decode_arguments(arguments)
                labels = [self._parameters.argument_name(path) for path in pytree.paths(structure)]
                described = export_key.describe_leaves(leaves, labels, self._target_name)
                plan = self._make_plan(leaves, structure, described)
                self._store_plan((trace_context, arguments), plan)
        return plan.op, plan.executor.execute_into

    def _describe(self, leaf: Any, path: Sequence[Any]) -> LeafInfo:
        label = self._parameters.argument_name(path)
        try:
            if self._target.is_staged(leaf):
                signature, spec = self._target.staged_spec(leaf)
                return LeafInfo(
                    label, signature, spec, arguments.LeafHandler(id, owner=self._target_name)
                )
            kind = self._leaf_handlers.get(leaf.__class__)
            if kind is None:
                kind = arguments.leaf_handler(
                    leaf, self._source_name, self._target_name, traced=self._source.traces_scalars
                )
            if kind.spec is None and not (
                label == SEED and self._supports_rng
            ):  # which is no static one
                arguments.check_static(leaf, self._target_name)
            spec = kind.spec and kind.spec(leaf)  # refuses what has no signature
            if spec and kind.owner == self._target_name:
                _registry.source_arrays(self._source_name).check_dtype(spec.dtype)
            described = LeafInfo(label, kind.signature(leaf), spec, kind)
        except (ArgumentError, NoValuesError) as error:
            raise type(error)(f"argument {label} of {self._name}: {error}") from None
        # Not before: a tensor that its spec refuses can have the signature of another.
        self._leaf_handlers[leaf.__class__] = kind
        return described

    def _make_plan(
        self, leaves: Sequence[Any], structure: Any, described: Sequence[LeafInfo]
    ) -> Plan:
        arrays = [leaf for leaf in described if leaf.spec is not None]
        fixed = [
            arguments.unwrap_static(leaf) if about.spec is None else ARRAY
            for leaf, about in zip(leaves, described, strict=True)
        ]
        labels = [f"argument {leaf.name} of {self._name}" for leaf in arrays]
        seeds = self._seed_positions(described, arrays)
        crossing = self._source_name, self._target_name
        flat = FlatFunction(self._fn, self._name, crossing, structure, fixed, seeded=bool(seeds))
        device = self._common_device(arrays)
        computes_on = (
            device if device == "meta" else self._source.compute_device(device, self._device)
        )
        primals = tuple(leaf.spec for leaf in arrays if leaf.spec)
        op = self._source.make_op(
            flat,
            name=self._name,
            primals=primals,
            labels=labels,
            **({"seed": seeds[0]} if seeds else {}),
            **self._options,
        )
        runner = executor.make_executor(
            self._source_name, self._target_name, device=device, compute_device=computes_on
        )
        about = [leaf.spec or value for leaf, value in zip(described, fixed, strict=True)]
        ambient = str(self._source.trace_context())
        origin = functools.partial(
            export_key.export_key, weakref.ref(self), ambient, structure, about
        )
        dynamic = [(i, x.prepare(self._name)) for i, x in enumerate(described) if x.spec]
        return Plan(
            op=op,
            executor=runner,
            primals=primals,
            native=self._target.make_native(op, runner, origin),
            flat=flat,
            array_leaves=dynamic,
            passthrough=len(dynamic) == len(leaves) and not any(prepare for _, prepare in dynamic),
        )

    def _seed_positions(
        self, described: Sequence[LeafInfo], arrays: Sequence[LeafInfo]
    ) -> list[int]:
        """Positions of the keys for random numbers among `arrays`: of one, or of none."""
        keys = [leaf for leaf in described if leaf.name == SEED and self._supports_rng]
        for leaf in keys:
            if leaf.spec is None or not leaf.spec.dtype.startswith(("int", "uint")):
                found = "no array" if leaf.spec is None else f"of {leaf.spec.dtype}"
                raise ArgumentError(
                    f"argument `{SEED}` of {self._name} is {found}. Pass a key, or an array of "
                    "integers, whose random numbers are always the same."
                )
        return [arrays.index(leaf) for leaf in keys]

    def _common_device(self, arrays: Sequence[LeafInfo]) -> str:
        """The device that all arrays of the caller's framework live on."""
        found = {
            x.spec.device: x.name for x in arrays if x.spec and x.kind.owner == self._target_name
        }
        if len(found) > 1:
            where = ", ".join(f"{label} on {device}" for device, label in found.items())
            raise ArgumentError(f"arguments of {self._name} are on different devices: {where}.")
        return next(iter(found), self._device or "cpu")
