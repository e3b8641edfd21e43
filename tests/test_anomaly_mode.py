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
