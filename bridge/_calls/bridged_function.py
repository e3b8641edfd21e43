"""A function of one framework that is called from another."""

import functools
import threading
import types
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bridge import _registry
from bridge._calls import arguments, executor, export_key
from bridge._calls.plan import ARRAY, SEED, Flat, Leaf, Plan, keyless
from bridge._calls.retracing import Traces
from bridge._calls.staged_call import Recorded
from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError, NoValuesError, OptionError
from bridge._core.op import Op
from bridge._core.protocols import Fill
from bridge._core.tracebacks import entrance, shorten

if TYPE_CHECKING:
    from bridge._calls.rewrapping import Wrapping

# NOTE [rows of arguments]
# Taking apart the arguments and hashing their structure costs more than all else that a call does
# on this side. Where all arguments are positional, and of classes that were leaves before, there
# is nothing to take apart, and their number stands for the structure.
_MOST_PLANS = 256  # of 3 MB each, which XLA takes for two small programs


def _form(structure: Any, count: int) -> Any:
    """What stands for a structure in the key of a plan: NOTE [rows of arguments]."""
    return count if structure == pytree.row(count) else structure


class BridgedFunction:
    """A function of one framework that is called from another; `jax2torch` makes them."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        direction: tuple[str, str],
        static: tuple[Sequence[int], Sequence[str]],
        device: str | None,
        options: dict[str, Any],
    ) -> None:
        self._home, self._away = direction
        if not callable(fn):
            raise ArgumentError(
                f"{self._home}2{self._away} expects a function, but got a {type(fn).__name__}. "
                f"Values are converted by bridge.to_{self._away}."
            )
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn
        self._name = self.__name__ = import_path.called(fn)
        self._source = _registry.source(self._home)
        self._target = _registry.target(self._away)
        self._ambient = self._source.ambient
        self._source.check(**options)
        if device is not None:
            self._source.check_device(device)
        self._device, self._options = device, options
        self._static = static
        self._parameters = arguments.parameters(fn, *static)
        self._seeded, self._draws = self._source.takes_seeds, False
        if self._seeded and SEED in self._parameters.every:
            raise OptionError(
                f"{self._name} has a parameter `{SEED}`, which is how the bridged function takes "
                "its key for random numbers. Give the parameter another name."
            )
        self._kinds: dict[type, arguments.Kind] = {}
        self._plans: dict[Any, Plan] = {}
        self._traces = Traces(self._name)
        self._lock = threading.RLock()
        self.wrapping: Wrapping | None = None
        self.staged: Any = None
        self.kept: list[Any] = []
        self.constants = types.SimpleNamespace()

    @property
    def away(self) -> str:
        """The framework that it is called from."""
        return self._away

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        chosen = sorted(set[str]().union(*(p.op.residuals() for p in self._plans.values())))
        taken = f", derivatives so far: {' and '.join(chosen)}" if chosen else ""
        return f"<{self._home}2{self._away} {self._name} ({options}){taken}>"

    def __reduce__(self) -> Any:
        place = import_path.place(self)
        if place is not None:
            return place.partition(":")[2]
        options = {"direction": (self._home, self._away), "static": self._static}
        options |= {"device": self._device, "options": self._options}
        return functools.partial(BridgedFunction, **options), (self._fn,)

    def __copy__(self) -> "BridgedFunction":
        return self

    def __deepcopy__(self, _: Any) -> "BridgedFunction":
        return self  # as functions are, with what has been traced

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self._target.compiling():  # Dynamo does not know methods that are no functions
            return functools.partial(self, instance)
        return types.MethodType(self, instance)

    @entrance
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._target.compiling():
            return self._target.compiled(self, args, kwargs)
        try:
            plan = None if kwargs or self._parameters.static else self._known(args, len(args))
            if plan is not None:  # NOTE [rows of arguments]
                outputs = plan.native(*(args if plan.as_they_are else plan.prepared(args)))
                return plan.flat.build(outputs)  # not before: without a trace it is known only now
            return self._results(args, kwargs)
        except Exception as error:
            shorten(error)
            raise

    def _results(self, args: Any, kwargs: Any) -> Any:
        """The results of a call that may be the first of its kind."""
        args, kwargs = self._arranged(args, kwargs)
        leaves, structure = pytree.leaves((args, kwargs))
        plan = self._known(leaves, _form(structure, len(leaves)))
        if plan is None:
            leaves, structure = pytree.flatten((args, kwargs), _registry.container)
            if any(self._target.is_staged(leaf) for leaf in leaves):
                outputs, structure = self._target.stage(self, args, kwargs)
                return pytree.unflatten(structure, outputs)
            plan = self._plan(leaves, structure)
            if plan.op.draws:
                return self._drawing(args, kwargs)
        return plan(leaves)

    def _arranged(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with static ones marked, and with a key if there has to be one."""
        if self._parameters.static:
            args, kwargs = self._parameters.mark(args, kwargs)
        if self._seeded and kwargs.get(SEED, self) is None:  # as if it had not been passed
            kwargs = {name: value for name, value in kwargs.items() if name != SEED}
        if SEED in kwargs and self._seeded:
            kwargs = {**kwargs, SEED: self._target.seed(kwargs[SEED])}
        elif self._draws:
            kwargs = {**kwargs, SEED: self._target.fresh_seed()}
        # Keyword arguments are one call in whatever order.
        return args, dict(sorted(kwargs.items())) if len(kwargs) > 1 else kwargs

    def _drawing(self, args: Any, kwargs: Any) -> Any:
        """The results of a function that has turned out to draw random numbers."""
        key = self._target.fresh_seed()
        if key is None:
            raise keyless(self._name)
        self._draws = True
        return self(*args, **{**kwargs, SEED: key})

    def _known(self, leaves: Sequence[Any], form: Any) -> Plan | None:
        """The plan for these leaves of a structure of this form, if there is one."""
        kinds = self._kinds
        try:
            signatures = [kinds[leaf.__class__].signature(leaf) for leaf in leaves]
        except (KeyError, RuntimeError, ArgumentError):
            return None  # found out again where the argument has a name
        return self._plans.get((form, self._ambient(), *signatures))

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """The leaves of the arguments, static ones wrapped, and their structure."""
        args, kwargs = self._parameters.mark(args, kwargs)
        return pytree.flatten((args, dict(sorted(kwargs.items()))), _registry.container)

    def plain(self, leaves: Sequence[Any]) -> list[Any]:
        """These leaves as they were passed, static ones too."""
        return [*map(arguments.value, leaves)]

    def recorded(self, args: Any, kwargs: Any) -> Recorded:
        """A call with these arguments, for a graph."""
        leaves, structure = self.flatten(args, kwargs)
        plan = self._plan(leaves, structure)
        if plan.op.draws:  # a graph would draw again where it is run again
            raise keyless(self._name)
        if unsupported := plan.flat.unsupported():
            raise ArgumentError(
                f"{unsupported}, where a graph holds tensors alone. Return its data, and make a "
                "key of that where it comes in: jax.random.key_data, jax.random.wrap_key_data."
            )
        owners = [_registry.owner(leaves[i]) for i, _ in plan.dynamic]
        arrays = [i for i, face in enumerate(owners) if face and face.name == self._away]
        shapes = functools.partial(self._source.shapes, **self._options)
        return Recorded(plan, plan.prepared(leaves), arrays, shapes)

    def _plan(self, leaves: Sequence[Any], structure: Any) -> Plan:
        """A new plan for arguments like these, kept if it is a trace."""
        with self._target.aside():
            paths = pytree.paths(structure)
            described = [self._describe(x, path) for x, path in zip(leaves, paths, strict=True)]
            form = _form(structure, len(leaves))
            key = (form, self._source.ambient(), *(leaf.signature for leaf in described))
            if not self._options.get("jit", True):
                return self._make(leaves, structure, described)
            with self._lock:  # a trace can take minutes: threads that want the same one wait
                plan = self._plans.get(key)
                if plan is None:
                    plan = self._make(leaves, structure, described)
                    if plan.op.draws:
                        return plan  # which is called with a key, or not at all
                    self._keep(key, plan)
                    if self.wrapping is not None:
                        self.wrapping.note()
                    options = self._options
                    if options.get("capture") != "never" and options.get("compile", True):
                        self._traces.note(described)
                return plan

    def _keep(self, key: Any, plan: Plan) -> None:
        while len(self._plans) >= _MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan

    def made_again(self, ambient: str, arguments: str) -> tuple[Op, Fill]:
        """The Op for arguments that another process described, and what evaluates it."""
        here = str(self._source.ambient())
        if here != ambient:
            raise ArgumentError(
                f"a program that calls {self._name} was made where the default dtype of "
                f"{self._home} was {ambient}, and here it is {here}. Set it, or export anew."
            )
        with self._lock:
            plan = self._plans.get((ambient, arguments))
            if plan is None:
                leaves, structure = export_key.decoded(arguments)
                labels = [self._parameters.label(path) for path in pytree.paths(structure)]
                described = export_key.described(leaves, labels, self._away)
                plan = self._make(leaves, structure, described)
                self._keep((ambient, arguments), plan)
        return plan.op, plan.runner.fill

    def _describe(self, leaf: Any, path: Sequence[Any]) -> Leaf:
        label = self._parameters.label(path)
        try:
            if self._target.is_staged(leaf):
                signature, spec = self._target.sketch(leaf)
                return Leaf(label, signature, spec, arguments.Kind(id, owner=self._away))
            kind = self._kinds.get(leaf.__class__)
            if kind is None:
                kind = arguments.kind(
                    leaf, self._home, self._away, traced=self._source.traces_numbers
                )
            if kind.spec is None and not (label == SEED and self._seeded):  # which is no static one
                arguments.check_static(leaf, self._away)
            spec = kind.spec and kind.spec(leaf)  # refuses what has no signature
            if spec and kind.owner == self._away:
                _registry.home(self._home).check_dtype(spec.dtype)
            described = Leaf(label, kind.signature(leaf), spec, kind)
        except (ArgumentError, NoValuesError) as error:
            raise type(error)(f"argument {label} of {self._name}: {error}") from None
        # Not before: a tensor that its spec refuses can have the signature of another.
        self._kinds[leaf.__class__] = kind
        return described

    def _make(self, leaves: Sequence[Any], structure: Any, described: Sequence[Leaf]) -> Plan:
        arrays = [leaf for leaf in described if leaf.spec is not None]
        fixed = [
            arguments.value(leaf) if about.spec is None else ARRAY
            for leaf, about in zip(leaves, described, strict=True)
        ]
        labels = [f"argument {leaf.label} of {self._name}" for leaf in arrays]
        seeds = self._seeds(described, arrays)
        crossing = self._home, self._away
        flat = Flat(self._fn, self._name, crossing, structure, fixed, seeded=bool(seeds))
        device = self._place(arrays)
        computes_on = device if device == "meta" else self._source.device(device, self._device)
        primals = tuple(leaf.spec for leaf in arrays if leaf.spec)
        op = self._source.op(
            flat,
            name=self._name,
            primals=primals,
            labels=labels,
            **({"seed": seeds[0]} if seeds else {}),
            **self._options,
        )
        runner = executor.carrier(self._home, self._away, device=device, computes_on=computes_on)
        about = [leaf.spec or value for leaf, value in zip(described, fixed, strict=True)]
        ambient = str(self._source.ambient())
        origin = functools.partial(export_key.origin, weakref.ref(self), ambient, structure, about)
        dynamic = [(i, x.prepare(self._name)) for i, x in enumerate(described) if x.spec]
        return Plan(
            op=op,
            runner=runner,
            primals=primals,
            native=self._target.expose(op, runner, origin),
            flat=flat,
            dynamic=dynamic,
            as_they_are=len(dynamic) == len(leaves) and not any(prepare for _, prepare in dynamic),
        )

    def _seeds(self, described: Sequence[Leaf], arrays: Sequence[Leaf]) -> list[int]:
        """Positions of the keys for random numbers among `arrays`: of one, or of none."""
        keys = [leaf for leaf in described if leaf.label == SEED and self._seeded]
        for leaf in keys:
            if leaf.spec is None or not leaf.spec.dtype.startswith(("int", "uint")):
                found = "no array" if leaf.spec is None else f"of {leaf.spec.dtype}"
                raise ArgumentError(
                    f"argument `{SEED}` of {self._name} is {found}. Pass a key, or an array of "
                    "integers, whose random numbers are always the same."
                )
        return [arrays.index(leaf) for leaf in keys]

    def _place(self, arrays: Sequence[Leaf]) -> str:
        """The device that all arrays of the caller's framework live on."""
        found = {x.spec.device: x.label for x in arrays if x.spec and x.kind.owner == self._away}
        if len(found) > 1:
            where = ", ".join(f"{label} on {device}" for device, label in found.items())
            raise ArgumentError(f"arguments of {self._name} are on different devices: {where}.")
        return next(iter(found), self._device or "cpu")
