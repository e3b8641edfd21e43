"""A function of one framework that is called from another."""

import functools
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls import arguments, random_keys
from bridge._calls.batches import Batches
from bridge._calls.changing_buffers import copy_buffers
from bridge._calls.explaining import Explainer
from bridge._calls.explanation import Explanation
from bridge._calls.plan import Plan
from bridge._calls.plan_cache import PlanCache, structure_key
from bridge._calls.planner import Planner
from bridge._calls.random_keys import KeyArgument, missing_key_error
from bridge._calls.rebuilding import results_rebuilder
from bridge._calls.staged_call import StagedCall, make_staged_call
from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError, OptionError
from bridge._core.function_protocols import ExecuteInto
from bridge._core.graph import Graph
from bridge._core.op import Op
from bridge._core.protocols import SEED, Source, Target
from bridge._core.tracebacks import mark_entry_point, shorten_traceback


class BridgedFunction:
    """A function of one framework that is called from another; `jax2torch` makes them."""

    __name__: str
    __wrapped__: Callable[..., Any]

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        frameworks: tuple[str, str],
        static: tuple[Sequence[int], Sequence[str]],
        device: str | None,
        options: dict[str, Any],
        batches: Batches = Batches(),  # noqa: B008, frozen
    ) -> None:
        self._source_name, self._target_name = frameworks
        self._check_callable(fn)
        functools.update_wrapper(self, fn, updated=())
        self._fn, self._static, self._device, self._options = fn, static, device, options
        self._batches, self._batched = batches, dict[Any, BridgedFunction]()
        self._unbatched: BridgedFunction | None = None
        self._name = self.__name__ = import_path.function_name(fn)
        for framework in frameworks:
            _registry.expect(framework)
        self._outline = _registry.outline(self._target_name)
        self._is_read_by_compiler = self._outline.compiler_check()
        self._parameters = arguments.parameters(fn, *static)
        self._check_options()
        self._planner = self._make_planner()
        self._key_argument = KeyArgument(self._planner)
        self.plans = PlanCache(self._planner)
        self._find_plan = self.plans.find
        self.staging_function: Any = None
        self.graph_objects: list[Any] = []
        self.named_graph_objects = types.SimpleNamespace()
        self.kept_for_graphs: dict[Any, Any] = {}

    @functools.cached_property
    def _source(self) -> Source:
        return _registry.source(self._source_name)  # imported only now, for the first call

    @functools.cached_property
    def _target(self) -> Target:
        return _registry.target(self._target_name)

    def _check_callable(self, fn: Any) -> None:
        if not callable(fn):
            raise ArgumentError(
                f"{self._source_name}2{self._target_name} expects a function, but got a "
                f"{type(fn).__name__}. Values are converted by bridge.to_{self._target_name}."
            )

    def _check_options(self) -> None:
        outline = _registry.outline(self._source_name)
        outline.check_options(**self._options)
        if self._device is not None:
            outline.check_device_name(self._device)

    def _make_planner(self) -> Planner:
        outline = _registry.outline(self._source_name)
        return Planner(
            fn=self._fn,
            name=self._name,
            frameworks=(self._source_name, self._target_name),
            parameters=self._parameters,
            takes_key=random_keys.takes_key(outline, self._fn, self._name, self._parameters),
            device=self._device,
            options=self._options,
            batches=self._batches,
            bridged=weakref.ref(self),  # plans are kept by us, and must not keep us alive
        )

    def referents(self) -> list[Any]:
        """Return the user's function, for a search in functions that call this one."""
        return [self._fn]

    @property
    def target_name(self) -> str:
        """The name of the framework that it is called from."""
        return self._target_name

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        direction = f"{self._source_name}2{self._target_name}"
        return f"<{direction} {self._name} ({options}){self.describe_derivatives()}>"

    def describe_derivatives(self) -> str:
        """Describe the ways of the derivatives that were computed so far, `""` without any."""
        strategies = self.plans.strategies()
        return f", derivatives so far: {' and '.join(strategies)}" if strategies else ""

    def __reduce__(self) -> Any:
        if self._unbatched is not None:
            return BridgedFunction.vmap, (self._unbatched, self._batches.in_dims[-1])
        path = import_path.import_path(self)
        if path is not None:
            return path.partition(":")[2]
        options = {"frameworks": (self._source_name, self._target_name), "static": self._static}
        options |= {"device": self._device, "options": self._picklable_options()}
        return functools.partial(type(self), **options), (self._fn,)

    def _picklable_options(self) -> dict[str, Any]:
        """Return the options that a pickle holds."""
        return self._options

    def vmap(self, in_dims: Any = 0) -> "BridgedFunction":
        """Map the function over a batch of its arguments, by the vmap of its own framework.

        This is what `torch.vmap`, `jax.vmap` and `mx.vmap` of it do. It works where these cannot be
        used, as in code that `torch.compile` reads.

        Args:
            in_dims: The axis of the batch: one for all positional arguments, or a tuple with one
                for each; None for what all examples share, and a container of them for a pytree.
                Keyword arguments are shared. Where the function draws random numbers, each example
                has a key of its own, along axis 0 of `rng`.

        Returns:
            A function of the same signature, whose results have the batch along axis 0.

        Raises:
            ArgumentError: When called with arguments that `in_dims` does not match, or of different
                sizes.

        Example:
            >>> import jax.numpy as jnp, torch
            >>> from bridge import jax2torch
            >>> dot = jax2torch(jnp.dot).vmap(in_dims=(0, None))
            >>> dot(torch.ones(3, 2), torch.tensor([1.0, 2.0]))
            tensor([3., 3., 3.])
        """
        key = repr(in_dims)
        if key not in self._batched:
            batched = self._batched[key] = type(self)(
                self._fn,
                frameworks=(self._source_name, self._target_name),
                static=self._static,
                device=self._device,
                options=self._options,
                batches=self._batches.with_outer(in_dims),
            )
            batched._unbatched = self
        return self._batched[key]

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Explain what a call with these arguments is, without making it; `print` the result.

        The function is traced, as by a first call, and nothing of that is stored; but bridged
        functions that it calls store their traces. Zeros cross in place of what it computes.

        Returns:
            What crosses, shared or copied, and why; the program; what is kept for the derivative;
            what is traced again; the bridged functions in it. `svg` and `dot` draw it.

        Raises:
            ArgumentError: As the call would.

        Example:
            >>> import jax.numpy as jnp, torch
            >>> from bridge import jax2torch
            >>> jax2torch(lambda x: jnp.sin(x).sum()).explain(torch.ones(3)).traces.reason
            'the first call traces it'
        """
        return self.explainer().explain_call(args, kwargs)

    def explainer(self) -> Explainer:
        """Return what explains its calls."""
        parts = self._planner, self.plans, self._key_argument, self._normalize
        return Explainer(*parts, callers=BridgedFunction)

    def __copy__(self) -> "BridgedFunction":
        return self

    def __deepcopy__(self, _: Any) -> "BridgedFunction":
        return self  # as functions are; a copy would trace everything again

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self._is_read_by_compiler() or self._target.is_between_compiled_parts():
            # Dynamo does not support methods of other callables.
            return functools.partial(self, instance)
        return types.MethodType(self, instance)

    @mark_entry_point
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_read_by_compiler() or self._target.is_between_compiled_parts():
            return self._outline.call_in_compiled_code(self, args, kwargs)
        try:
            plan = None if kwargs or self._parameters.static else self._find_plan(args, len(args))
            if plan is not None and not plan.needs_seed:  # NOTE [rows of arguments]
                outputs = plan.native(*(args if plan.passthrough else plan.select_arrays(args)))
                return plan.flat.build(outputs)  # read only now: without a trace, calls may set it
            return self._flatten_and_call(args, kwargs)
        except Exception as error:
            shorten_traceback(error)
            raise

    def _flatten_and_call(self, args: Any, kwargs: Any) -> Any:
        """Call with arguments of any structure, which may have no plan yet."""
        args, kwargs = self._normalize(args, kwargs)
        leaves, structure = pytree.flatten_known((args, kwargs))
        plan = self._find_plan(leaves, structure_key(structure, len(leaves)))
        if plan is None:
            leaves, structure = pytree.flatten((args, kwargs), _registry.pytree_node_functions)
            if any(self._target.needs_staging(leaf) for leaf in leaves):
                outputs, structure = self._target.stage(self, args, kwargs)
                return results_rebuilder(structure, self._target_name, self._name)(outputs)
            plan = self.plans.find_or_make(leaves, structure)
        if plan.needs_seed:
            return self(*args, **self._key_argument.add_seed(args, kwargs, plan.device))
        return plan(leaves)

    def _normalize(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments with static ones wrapped, and the data of a key in its place."""
        if self._parameters.static:
            args, kwargs = self._parameters.wrap_static(args, kwargs)
        kwargs = self._key_argument.normalize(kwargs)
        # Sorted, so that the order of keyword arguments makes no other plan.
        return args, dict(sorted(kwargs.items())) if len(kwargs) > 1 else kwargs

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """Return the leaves of the arguments, static ones wrapped, and their structure."""
        args, kwargs = self._parameters.wrap_static(args, kwargs)
        return pytree.flatten((args, dict(sorted(kwargs.items()))), _registry.pytree_node_functions)

    def trace_context(self) -> Hashable:
        """Return the settings of the source that a trace depends on."""
        return self._source.trace_context()

    def result_leaves(self, results: Any) -> list[Any]:
        """Return the leaves of the results of a call."""
        return pytree.flatten(results, _registry.pytree_node_functions)[0]

    def unwrap_static_leaves(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves as they were passed, static ones unwrapped."""
        return [*map(arguments.unwrap_static, leaves)]

    def needs_key(self, args: Any, kwargs: Any) -> bool:
        """Return True if a call draws random numbers, and has no key."""
        return self._plan_without_key(*self._normalize(args, kwargs)) is not None

    def add_seed(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """Return the keyword arguments, with a new seed if the call draws random numbers."""
        args, kwargs = self._normalize(args, kwargs)
        plan = self._plan_without_key(args, kwargs)
        return self._key_argument.add_seed(args, kwargs, plan.device) if plan else kwargs

    def _plan_without_key(self, args: Any, kwargs: Any) -> Plan | None:
        """Return the plan of a call that draws random numbers, and has no key; else None."""
        if SEED in kwargs or not self._planner.takes_key:
            return None
        plan = self.plans.find_or_make(*self.flatten(args, kwargs))
        return plan if plan.needs_seed else None

    def copy_buffers(self, args: Any, copy: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """Return the arguments with copies of buffers that a module writes to after the call."""
        return copy_buffers(self._fn, args, copy)

    @property
    def is_lowered(self) -> bool:
        """True if it becomes code of the caller's framework."""
        return self._planner.is_lowered

    def call_lowered(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Call it as code of the caller's framework; return flat results and their structure."""
        leaves, structure = self.flatten(args, kwargs)
        plan = self.plans.find_or_make(leaves, structure)
        if plan.needs_seed:
            raise missing_key_error(self._name)
        return list(plan.native(*plan.select_arrays(leaves))), plan.flat.result_structure

    def listing(self, *args: Any, **kwargs: Any) -> Graph:
        """Return the operations that a call with these arguments computes, without calling it.

        Its `str` has one line for each, with names, shapes and dtypes.

        Raises:
            OptionError: If the function was wrapped without `lower="aten"`.
        """
        if not self.is_lowered:
            raise OptionError(f"{self._name} has no listing, since it was wrapped without lower=.")
        args, kwargs = self._normalize(args, kwargs)
        plan = self.plans.find_or_make(*self.flatten(args, kwargs))
        graph = plan.op.traits.graph and plan.op.traits.graph()
        if not isinstance(graph, Graph):
            raise missing_key_error(self._name)
        return graph

    def make_staged_call(self, args: Any, kwargs: Any) -> StagedCall:
        """Return a call with these arguments, for a graph to hold."""
        leaves, structure = self.flatten(args, kwargs)
        plan = self.plans.find_or_make(leaves, structure)
        if plan.needs_seed:
            raise missing_key_error(self._name)
        shapes = functools.partial(self._source.symbolic_shapes, **self._options)
        return make_staged_call(plan, leaves, self._target_name, shapes)

    def rebuild(self, trace_context: str, arguments: str) -> tuple[Op, ExecuteInto]:
        """Return the Op for arguments that another process described, and what executes it."""
        plan = self.plans.rebuild(trace_context, arguments)
        return plan.op, plan.executor.execute_into
