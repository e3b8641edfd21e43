"""Anomaly mode of torch says where the user called."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from tests.versions import OLDER_TORCH  # noqa: E402

MODES = {
    "save": {"residuals": "save"},
    "recompute": {"residuals": "recompute"},
    "eager": {"jit": False},
}


def line_of_the_user(f, x):
    return f(x)


def warned_in_anomaly_mode(f, *, create_graph):
    """The texts torch warns with when the gradient of `f` at 0 is nan."""
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        y = line_of_the_user(f, x).sum()
        if create_graph:
            (y,) = torch.autograd.grad(y, x, create_graph=True)
        with pytest.raises(RuntimeError, match="returned nan values"):
            y.sum().backward()
    return [str(warning.message) for warning in caught]


ANOMALIES = {
    "first order": (lambda xp, x: xp.sqrt(x) * 0, False),
    "second order": pytest.param(
        lambda xp, x: x**1.5 * 0,
        True,
        marks=pytest.mark.xfail(OLDER_TORCH, reason="torch 2.11 loses nodes of Functions"),
    ),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("function", "create_graph"), ANOMALIES.values(), ids=ANOMALIES)
def test_anomaly_mode_points_at_the_call_of_the_user(into_torch, function, create_graph, mode):
    source, wrap = into_torch

    def of_the_user(x):
        return function(source.xp, x)

    texts = warned_in_anomaly_mode(wrap(of_the_user, **mode), create_graph=create_graph)
    native = warned_in_anomaly_mode(lambda x: function(torch, x), create_graph=create_graph)
    here = ["line_of_the_user" in text for text in texts]
    assert here == ["line_of_the_user" in text for text in native]
    pointed = next(text for text in texts if "line_of_the_user" in text)
    assert f'{__file__}", line ' in pointed
    assert "return f(x)" in pointed
    assert "of_the_userBackward" in pointed


def raised_in_anomaly_mode(f, x, cotangent):
    """The error of a gradient of `f` at `x`."""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")
        y = f(x.requires_grad_())
        with pytest.raises(RuntimeError, match="returned nan values") as error:
            y.backward(cotangent)
    return error.value


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_anomaly_mode_names_the_bridged_call(into_torch, mode):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sqrt(x), **mode)
    error = raised_in_anomaly_mode(f, torch.zeros(2), torch.zeros(2))
    (note,) = error.__notes__
    assert f"computed by {source.name} for torch: a call of {source.name}2torch" in note
    assert "the derivative of <lambda>" in note
    assert "It begins here: no input was invalid." in note
    assert "in the gradient of argument 0" in str(error)


def test_anomaly_mode_says_that_a_nan_came_from_elsewhere(into_torch):
    source, wrap = into_torch
    f, nan = wrap(lambda x: source.xp.sin(x) * 2), float("nan")
    error = raised_in_anomaly_mode(f, torch.ones(2), torch.tensor([1.0, nan]))
    assert "Invalid before were the gradient of result 0" in error.__notes__[0]
    error = raised_in_anomaly_mode(f, torch.tensor([1.0, nan]), torch.ones(2))
    assert "Invalid before were a tensor that the call has saved." in error.__notes__[0]


def test_nan_is_no_error_without_the_check(into_torch):
    source, wrap = into_torch
    x = torch.zeros(2, requires_grad=True)
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.simplefilter("ignore")
        wrap(lambda x: source.xp.sqrt(x))(x).backward(torch.zeros(2))
    assert x.grad.isnan().all()
