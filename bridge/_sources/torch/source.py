"""PyTorch as a source of functions."""

import copy
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

from bridge._core.errors import DeviceError
from bridge._core.op import Op, Specs
from bridge._sources.torch.capture.trace import on_copies
from bridge._sources.torch.integers import advising, advising_on_small, narrow_positions, widening
from bridge._sources.torch.program import Settings
from bridge._sources.torch.rules import make_user_function
from bridge._sources.torch.state.attribute_changes import watching_attributes
from bridge._sources.torch.state.kept_values import check_keeps_nothing
from bridge._sources.torch.state.module import TorchModule, take_apart


class TorchSource:
    """Makes Ops of functions of PyTorch; implements `Source`."""

    traces_scalars = False
    make_key = weakly_typed = None
    swaps_parameters = True

    def is_module(self, fn: Any) -> bool:
        """Return True if `fn` is an `nn.Module`."""
        return isinstance(fn, torch.nn.Module)

    def holds_parameters(self, x: Any) -> bool:
        """Return True if `x` is a module with parameters that are trained."""
        return self.is_module(x) and any(p.requires_grad for p in x.parameters())

    take_apart = staticmethod(take_apart)

    def trace_context(self) -> Hashable:
        """Return the default dtype, and other settings that a function can read, if changed.

        Gradient modes, autocast and the default device do not count: calls reset them.
        """
        dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        deterministic = torch.are_deterministic_algorithms_enabled()
        if not deterministic and precision == "highest":
            return dtype
        return dtype, deterministic, precision

    def describe_context(self, context: Any) -> Mapping[str, Any]:
        """Return the settings of a trace context by name."""
        names = "default dtype", "deterministic algorithms", "float32 matmul precision"
        changed = context if isinstance(context, tuple) else (context, False, "highest")
        return dict(zip(names, changed, strict=True))

    def choose_compute_device(self, arguments_device: str, requested: str | None) -> str:
        """Return `requested`, or the device of the arguments; raise if torch has no such device."""
        chosen = requested or arguments_device
        if chosen.startswith("cuda") and not torch.cuda.is_available():
            raise DeviceError(
                f"torch cannot compute on {chosen}: this is torch {torch.__version__} without a "
                'CUDA device. Let it compute on the host with device="cpu", which copies.'
            )
        return chosen

    def make_op(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        primals: Specs,
        argument_names: Sequence[str],
        capture: str,
        seed_argnum: int | None = None,
        **options: str,
    ) -> Op:
        """Make an Op of `fn` for primals of these specs, captured now unless `capture` is "never".

        Random numbers follow from the argument at `seed_argnum`, one or more integers. With
        `lower="xla"`, Ops have a neutral graph and are captured on the host, where torch computes
        nothing. With `integers="int64"`, arguments that are integers of 32 bits reach `fn` as
        int64.
        """
        exports_graph = options.get("lower") == "xla"
        if exports_graph:
            primals = tuple(dataclasses.replace(spec, device="cpu") for spec in primals)
            written = getattr(fn, "written", None)
            if isinstance(written, TorchModule):
                written.narrows_buffers = True
        narrow = narrow_positions(fn, primals, argument_names)
        if options.get("integers") == "int64":
            run, narrow = widening(on_copies(fn, name), narrow), []
        else:
            run = advising(on_copies(fn, name), narrow)
        run = advising_on_small(run, fn, primals, argument_names)
        dtype = torch.get_default_dtype()
        settings = Settings(capture, dtype, seed_argnum, exports_graph, narrow)
        with watching_attributes(inside=True) as watch:
            function = make_user_function(run, name, primals, settings)
        if watch.changes:  # NOTE [kept values]
            watch.inside = function.program is not None  # a rerun keeps what attributes hold
            structured: Any = fn
            results = copy.copy(fn)
            check_keeps_nothing(run, primals, dtype, name, watch)
            structured.copy_results(results)  # those on example inputs may be others
        return function.make_op()

    def symbolic_shapes(
        self,
        fn: Callable[..., Any],
        primals: Specs,
        names: Sequence[Sequence[int | str]],
        **_: Any,
    ) -> list[tuple[int | str, ...]] | None:
        """Return `None`: graphs have static shapes."""
        del fn, primals, names


SOURCE = TorchSource()
