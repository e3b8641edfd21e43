"""JAX as a source of functions."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge._arrays.jax import ARRAYS, choose_compute_device, x64_mode
from bridge._arrays.jax.upstream.weak_types import weakly_typed
from bridge._arrays.numpy_copies import NumpySnapshots
from bridge._core.captured_state import StateReader, find_places
from bridge._core.errors import ArgumentError
from bridge._core.function_protocols import StructuredFunction
from bridge._core.op import Op, Specs
from bridge._core.protocols import SEED
from bridge._core.pure_module import PureModule
from bridge._core.unseeded import unseeded_op
from bridge._sources.jax.environment import current_environment, number_of_settings
from bridge._sources.jax.modules import holds_parameters, is_module, take_apart
from bridge._sources.jax.modules.keys import make_key, trace_module
from bridge._sources.jax.rules import Settings, make_function
from bridge._sources.jax.trace import symbolic_output_shapes


class JaxSource:
    """The functions of JAX."""

    traces_scalars = True
    swaps_parameters = False

    make_key = staticmethod(make_key)
    weakly_typed = staticmethod(weakly_typed)
    is_module = staticmethod(is_module)
    take_apart = staticmethod(take_apart)
    holds_parameters = staticmethod(holds_parameters)
    trace_context = staticmethod(number_of_settings)
    describe_context = staticmethod(number_of_settings.describe)

    def choose_compute_device(self, arguments_device: str, requested: str | None) -> str:
        """Return `requested`, or the device of the arguments."""
        return choose_compute_device(arguments_device, requested)

    def make_op(  # noqa: PLR0913, the options of a wrapper of JAX
        self,
        fn: StructuredFunction,
        *,
        name: str,
        primals: Specs,
        argument_names: Sequence[str],
        jit: bool,
        x64: bool | None,
        residuals: str,
        seed_argnum: int | None = None,
        lower: str | None = None,
    ) -> Op:
        """Make an Op of `fn` for primals of these specs; trace it now unless `jit` is False."""
        labels = [f"argument {argument} of {name}" for argument in argument_names]
        environment = current_environment(x64=_needs_x64(primals, labels, x64=x64))
        settings = Settings(jit, environment, residuals, tuple(labels), lower is not None)
        traced: Any = fn
        if isinstance(fn.written, PureModule) and fn.takes(SEED):
            traced = trace_module(fn, primals, environment, labels, seed_argnum) if jit else fn
            if traced is None or (seed_argnum is None and not jit):
                return unseeded_op(name, "jax")
        flat = make_function(traced, name, primals, settings)
        if not jit:
            find = functools.partial(find_places, fn, ARRAYS.is_array)
            flat = dataclasses.replace(flat, captured_state=StateReader(find, NumpySnapshots()))
        return flat.make_op()

    def symbolic_shapes(
        self,
        fn: Callable[..., Any],
        primals: Specs,
        names: Sequence[Sequence[int | str]],
        *,
        x64: bool | None,
        **_: Any,
    ) -> list[tuple[int | str, ...]] | None:
        """Return the shapes of the outputs of `fn` for primals whose shapes contain names."""
        needs_x64 = _needs_x64(primals, [""] * len(primals), x64=x64)
        return symbolic_output_shapes(fn, primals, names, x64=needs_x64)


def _needs_x64(primals: Specs, labels: Sequence[str], *, x64: bool | None) -> bool:
    """Return True to compute in 64-bit mode: if a primal is a 64-bit float, or by JAX's flag."""
    double_precision = [
        (label, spec)
        for label, spec in zip(labels, primals, strict=True)
        if spec.dtype in ("float64", "complex128") and not (spec.weak_type or spec.follows_mode)
    ]
    if x64 is None:
        return x64_mode() or bool(double_precision)
    if double_precision and not x64:
        label, spec = double_precision[0]
        raise ArgumentError(
            f"{label} is {spec}, which x64=False would narrow. "
            "Convert it yourself, or leave x64 out."
        )
    return x64


SOURCE = JaxSource()
