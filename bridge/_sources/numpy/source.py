"""NumPy as a source of functions without autodiff, which gradient rules differentiate."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from bridge._core.errors import DeviceError, OptionError
from bridge._core.function_protocols import StructuredFunction
from bridge._core.op import Op, Specs
from bridge._core.protocols import SEED
from bridge._core.spec import ArraySpec
from bridge._core.unseeded import unseeded_op
from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.rule_check import RuleCheck
from bridge._sources.numpy.rules import Function
from bridge._sources.numpy.settings import Settings


class NumpySource:
    """Functions on NumPy arrays."""

    traces_scalars = False
    make_key = weakly_typed = None
    swaps_parameters = False

    def is_module(self, fn: Any) -> bool:
        """Return False: a callable object is a function here."""
        del fn
        return False

    def holds_parameters(self, x: Any) -> bool:
        """Return False: whatever a function holds has no gradient."""
        return False

    def take_apart(self, module: Any, *, method: Any, allow_64_bits: bool) -> Any:
        """Raise: there are no modules."""
        raise NotImplementedError

    def trace_context(self) -> Hashable:
        """Return None: nothing is traced."""
        return None

    def describe_context(self, context: Any) -> Mapping[str, Any]:
        """Return no settings."""
        del context
        return {}

    def choose_compute_device(self, arguments_device: str, requested: str | None) -> str:
        """Return the host; raise for others."""
        chosen = requested or arguments_device
        if chosen != "cpu":
            raise DeviceError(
                f"functions on NumPy arrays cannot compute on {chosen}. Let them take arguments "
                'from the memory of the host with device="cpu", which copies them and the results.'
            )
        return chosen

    def make_op(
        self,
        fn: StructuredFunction,
        *,
        name: str,
        primals: Specs,
        argument_names: Sequence[str],
        seed_argnum: int | None = None,
        **options: Any,
    ) -> Op:
        """Make an Op of `fn`, which is not evaluated yet."""
        settings = Settings(**options)
        settings.check_names([*argument_names], fn, name)
        if seed_argnum is None and fn.takes(SEED):
            return unseeded_op(name, "numpy")
        box = BlackBox(
            flat_fn=fn,
            name=name,
            primals=primals,
            argument_names=argument_names,
            rules=[settings.rule_of(argument) for argument in argument_names],
            caller=settings.make_caller(name),
            compute_dtype=None if settings.dtype is None else np.dtype(settings.dtype),
            max_points=settings.max_points,
            seed_argnum=seed_argnum,
        )
        fn.checks_dtypes, fn.keeps_structure = False, True
        if settings.out is not None:
            specs = _specs_from_out(settings.out, fn, primals, name)
            box.known_outputs = tuple(map(box.rounded_spec, specs))
            fn.check_result_specs(box.known_outputs)
        return Function(box, name).make_op()

    def check_rules(
        self,
        op: Op,
        xs: Sequence[np.ndarray],
        argument_names: Sequence[str],
        *,
        atol: float,
        seed: int,
        options: dict[str, Any],
    ) -> None:
        """Raise an `AssertionError` if the rule of an argument is wrong at `xs`."""
        rules = [Settings(**options).rule_of(argument) for argument in argument_names]
        generator = np.random.default_rng(seed)
        RuleCheck(op, op.name, xs, argument_names, rules, atol, generator).check()

    def symbolic_shapes(
        self,
        fn: Callable[..., Any],
        primals: Specs,
        names: Sequence[Sequence[int | str]],
        **_: Any,
    ) -> list[tuple[int | str, ...]] | None:
        """Return None: what a function returns is known for the shapes it was called with."""
        del fn, primals, names


def _specs_from_out(out: Any, fn: StructuredFunction, primals: Specs, name: str) -> Specs:
    """Return the specs of results that the user told, as examples or as a function."""
    if callable(out):
        arrays = [np.broadcast_to(np.zeros((), spec.dtype), spec.shape) for spec in primals]
        args, kwargs = fn.arguments.unflatten(arrays)
        out = out(*args, **{key: x for key, x in kwargs.items() if key != SEED})
    specs: list[ArraySpec] = []
    for example in fn.set_results(out):
        if type(example) in (int, float, complex, bool):
            example = np.asarray(example)
        if not (hasattr(example, "shape") and hasattr(example, "dtype")):
            raise OptionError(
                f"out= of {name} has a {type(example).__name__}, where an array, or anything else "
                "with a shape and a dtype, was expected."
            )
        specs.append(ArraySpec(tuple(example.shape), np.dtype(example.dtype).name))
    return tuple(specs)


SOURCE = NumpySource()
