"""MLX as a source of functions."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from bridge._arrays.mlx import is_module, keeping_graph, transforming
from bridge._core.errors import ArgumentError, DeviceError
from bridge._core.op import Op, Specs
from bridge._sources.mlx.call_checks import check_no_captured_tracers
from bridge._sources.mlx.captured_state import state_reader
from bridge._sources.mlx.eager import keep_graphs, observe_outputs
from bridge._sources.mlx.module import take_apart
from bridge._sources.mlx.native import Settings, as_flat_function
from bridge._sources.mlx.random import Fun
from bridge._sources.mlx.rules import Function
from bridge._sources.mlx.upstream_bugs import summarize_checked


class MlxSource:
    """Functions of MLX."""

    traces_scalars = False
    make_key = weakly_typed = None
    swaps_parameters = True

    is_module = staticmethod(is_module)

    def holds_parameters(self, x: Any) -> bool:
        """Return True if `x` is a module with parameters that are trained."""
        return self.is_module(x) and bool(tree_flatten(x.trainable_parameters()))

    take_apart = staticmethod(take_apart)

    def trace_context(self) -> Hashable:
        """Return the type of the device that MLX computes on."""
        return mx.default_device().type.value

    def describe_context(self, context: Any) -> Mapping[str, Any]:
        """Return the type of the device by name."""
        return {"default device": context}

    def choose_compute_device(self, arguments_device: str, requested: str | None) -> str:
        """Return the host, whose memory MLX uses on all devices; raise for others."""
        chosen = requested or arguments_device
        if chosen != "cpu":
            raise DeviceError(
                f"MLX cannot compute on {chosen}. Let it take arguments from the memory of the "
                'host with device="cpu", which copies them and the results.'
            )
        return chosen

    def make_op(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        primals: Specs,
        argument_names: Sequence[str],
        compile: bool,
        residuals: str,
        seed_argnum: int | None = None,
    ) -> Op:
        """Make an Op of `fn` for primals of these specs, after a dry run.

        Random numbers follow from the argument at the position `seed_argnum`, one or more integers.
        """
        for spec, argument in zip(primals, argument_names, strict=True):
            if spec.weak_type:
                raise ArgumentError(
                    f"argument {argument} of {name} is a Python number, which reaches a function "
                    "of MLX as it is. Name it static, or pass an array."
                )
        settings = Settings(compile, residuals, seed_argnum)
        function = _make_function(as_flat_function(fn, seed_argnum), name, primals, settings)
        read_state = state_reader(fn)
        if compile:  # a compiled function keeps what it captured
            state = read_state()
            read_state = lambda: state
        return dataclasses.replace(function, captured_state=read_state).make_op()

    def symbolic_shapes(
        self,
        fn: Callable[..., Any],
        primals: Specs,
        names: Sequence[Sequence[int | str]],
        **_: Any,
    ) -> list[tuple[int | str, ...]] | None:
        """Return None: graphs of MLX have no symbolic shapes."""
        del fn, primals, names


def _make_function(fun: Fun, name: str, primals: Specs, settings: Settings) -> Function:
    """Make a function with its rules, after a dry run."""
    check = functools.partial(check_no_captured_tracers, fun, primals, name)
    check()
    summary = summarize_checked(fun, name, primals)
    if summary and (summary.captured or transforming()):  # which hides what would be captured
        run, fun = fun, keep_graphs(fun)
        summary = summarize_checked(lambda *xs: keeping_graph(lambda: run(*xs)), name, primals)
    if summary:
        outputs, draws = summary.outputs, summary.uses_global_rng
    else:
        fun = keep_graphs(fun)
        outputs, draws = observe_outputs(fun, primals, name)
    return Function(
        name,
        primals,
        settings,
        fun,
        outputs,
        summary,
        uses_global_rng=draws and settings.seed_argnum is None,
        check_no_captured_tracers=check,
    )


SOURCE = MlxSource()
