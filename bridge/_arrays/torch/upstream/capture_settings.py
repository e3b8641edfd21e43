"""Private settings of torch for the capture of graphs."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Generator

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
    - `torch.compiler.is_compiling()` is true: models that ask for it then avoid to look at values,
      as under `torch.compile` and `torch.export`.
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
            stack.callback(_set_compiling, value=torch.compiler._is_compiling_flag)
            _set_compiling(value=True)
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


def _set_compiling(*, value: bool) -> None:
    torch.compiler._is_compiling_flag = value


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
