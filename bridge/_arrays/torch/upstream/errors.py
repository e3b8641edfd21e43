"""Errors that torch raises, told apart by their classes and texts; the classes are required."""

import re

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

# Raised where a function needs values and there are none.
_NO_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)
# Texts of plain RuntimeErrors that torch raises for the same reason.
_NO_VALUES_TEXTS = (
    ".numpy() is not supported for tensor subclasses",
    "Cannot access data pointer",
    "Attempted to access the data pointer on an invalid python storage",
    "unsupported format string passed to FunctionalTensor.__format__",
    "Can't call numpy() on Tensor that requires grad",
    "It appears that you're trying to get value out of a tracing tensor",
    "Cannot call numel() on tensor with symbolic sizes/strides",
)


def is_backward_call_error(error: BaseException) -> bool:
    """Return True if `error` says that `.backward()` was called in a capture."""
    return "Cannot backprop through mirrored meta" in str(error)


def is_change_error(error: BaseException) -> bool:
    """Return True if `error` says that a graph would change in place what is not its argument."""
    text = str(error)
    return "entirely functional graph" in text or ("n=copy_" in text and "placeholders=" in text)


def is_no_fake_impl_error(error: BaseException) -> bool:
    """Return True if `error` says that torch needs values to know the results of an operator."""
    texts = "There was no fake impl registered", "self.shape_env must not be None"
    return isinstance(error, UnsupportedOperatorException) or any(x in str(error) for x in texts)


def is_no_values_error(error: BaseException) -> bool:
    """Return True if `error` says that a function looked at values in a capture."""
    return isinstance(error, _NO_VALUES) or any(text in str(error) for text in _NO_VALUES_TEXTS)


def is_setup_context_error(error: BaseException) -> bool:
    """Return True if `error` says that torch.func refuses a Function in the style of torch 1."""
    return "it must override the setup_context staticmethod" in str(error)


def is_wide_integer_error(error: BaseException) -> bool:
    """Return True if `error` says that an operator takes integers of 64 bits alone."""
    return _WIDE_INTEGER.search(str(error)) is not None


# Texts about labels and indices name the dtype that is missing, or the one without a kernel.
_WIDE_INTEGER = re.compile(
    r"\bLong\b|LongTensor|\bint64\b|\ba long tensor\b|\bdtype of long\b|\blong dtype\b"
    r"|\bmust be long\b|\bto be long\b|\blong int\b|for 'U?Int(32)?'|Promotion for uint"
)


def no_graph_reason(error: BaseException) -> str | None:
    """Return why a function that may be rerun instead has no graph, if `error` says so."""
    if is_change_error(error):
        return (
            "it changes in place a tensor that it has computed only from tensors that it captures. "
            "Pass them as arguments."
        )
    if is_no_fake_impl_error(error):
        return (
            "torch cannot tell the shapes of the results of an operator without values "
            f"({error}). `torch.library.register_fake` tells it, if the operator is yours."
        )
    if is_no_values_error(error):
        return (
            f"it looks at the values of tensors ({error}): by `if`, `.item()`, NumPy, or a shape "
            "that depends on them."
        )
    return None
