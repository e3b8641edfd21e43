"""Private settings of torch for the capture of graphs.

NOTE [compiling in one thread]
Models that look at values ask `torch.compiler.is_compiling()`, and leave that out under
`torch.compile` and `torch.export`. So it is true while a graph is captured. What they leave out are
checks, warnings, and ways that are faster for some values; in torch itself, the results are those
of eager code, but for Adam, whose powers are rounded to float32 then. A model that returns
something else where it is compiled does so in a graph too.
Torch has one flag for all threads. Eager code of others, as that of a function which is rerun by a
thread of XLA, is not compiled. So the flag is an object that is true in the thread that captures,
and in those that compute for it, which inherit its dispatch modes. A compiler in another thread may
restore it after the capture, so it is false from then on.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator
from typing import Any

import torch
import torch._higher_order_ops.effects as effects
from torch.nn.utils import parametrize
from torch.utils import _python_dispatch as modes


@contextlib.contextmanager
def capture_settings() -> Generator[None]:
    """Set torch up for the capture of a graph; all threads share these settings.

    - Code that `torch.compile` made runs as it was written, since a graph cannot contain it.
    - Operators of oneDNN and cuDNN are off: torch does not know the size of their workspaces, and
      no target knows the operators.
    - Errors are raised, and not logged too.
    - `torch.compiler.is_compiling()` is true: NOTE [compiling in one thread].
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_restore_dispatch())
        dynamo = sys.modules.get("torch._dynamo")  # not imported, which takes seconds
        if dynamo is not None:
            stack.enter_context(dynamo.config.patch(error_on_nested_fx_trace=False))
        stack.callback(_keep_linalg_checks())
        for enabled, set_enabled in _BACKENDS:
            stack.callback(set_enabled, enabled())
            set_enabled(False)
        # While a joint graph is captured, torch warns of errors in its backward and raises them.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="(?s)Error detected in ")
        stack.callback(setattr, _FAKE_LOG, "disabled", _FAKE_LOG.disabled)
        _FAKE_LOG.disabled = True
        if hasattr(torch.compiler, "_is_compiling_flag"):  # else such models are rerun
            stack.enter_context(_compiling())
        yield


@contextlib.contextmanager
def _restore_dispatch() -> Generator[None]:
    """Restore torch's dispatch modes, which an exception within torch may leave on; required."""
    c = torch._C
    before = c._len_torch_dispatch_stack(), c._len_torch_function_stack()
    dispatch_keys = c._dispatch_tls_local_include_set(), c._dispatch_tls_local_exclude_set()
    with c._ForceDispatchKeyGuard(*dispatch_keys):
        try:
            yield
        except BaseException as error:
            _free_guards(error)
            raise
        finally:
            while c._len_torch_dispatch_stack() > before[0]:
                modes._pop_mode(getattr(modes._get_current_dispatch_mode(), "_mode_key", None))
            while c._len_torch_function_stack() > before[1]:
                c._pop_torch_function_stack()


def _free_guards(error: BaseException | None) -> None:
    """Free the guards of torch's dispatch that the frames of an error hold.

    Freed later, by the garbage collector, they would set the dispatch of then to that of now. The
    frame of `torch.Tensor.__repr__` holds one.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").startswith("torch."):
                with contextlib.suppress(RuntimeError):  # of a frame that still runs
                    frame.clear()
        error = error.__cause__ or error.__context__


def _keep_linalg_checks() -> Callable[[], object]:
    """Keep the checks of `torch.linalg` in graphs, which torch 2.11 drops; return the undoing."""
    get = getattr(effects, "_get_effect", None)
    if get is None or get(_CHECK_ERRORS) is not None:
        return lambda: None
    ordered = effects._EffectType.ORDERED
    return effects._register_effectful_op(_CHECK_ERRORS, ordered).destroy


class _CompilingFlag(int):
    """A truth value for one thread: NOTE [compiling in one thread]."""

    def __init__(self, _: object) -> None:
        self.thread: int | None = threading.get_ident()

    def __bool__(self) -> bool:
        if self.thread is None:
            return False
        return self.thread == threading.get_ident() or torch._C._len_torch_dispatch_stack() > 0


@contextlib.contextmanager
def _compiling() -> Generator[None]:
    before: Any = torch.compiler._is_compiling_flag
    flag: Any = _CompilingFlag(1)  # an int, so that it equals True
    torch.compiler._is_compiling_flag = flag
    try:
        yield
    finally:
        flag.thread = None
        if (
            torch.compiler._is_compiling_flag is flag
        ):  # else a compiler in another thread has set it
            is_over = isinstance(before, _CompilingFlag) and before.thread is None
            torch.compiler._is_compiling_flag = False if is_over else before


_CHECK_ERRORS = "aten::_linalg_check_errors"
_FAKE_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_BACKENDS = [
    (getattr(torch._C, f"_get_{name}_enabled"), getattr(torch._C, f"_set_{name}_enabled"))
    for name in ("mkldnn", "cudnn")
    if hasattr(torch._C, f"_set_{name}_enabled")
]


@contextlib.contextmanager
def without_parametrization_cache() -> Generator[None]:
    """Let parametrizations compute, whatever `torch.nn.utils.parametrize.cached` has cached."""
    before = {name: getattr(parametrize, name) for name in _CACHE if hasattr(parametrize, name)}
    try:
        for name, value in before.items():
            setattr(parametrize, name, type(value)())
        yield
    finally:
        for name, value in before.items():
            setattr(parametrize, name, value)


_CACHE = ("_cache_enabled", "_cache")
