"""Dynamic sizes in compiled code that calls bridged functions."""

import pytest

torch = pytest.importorskip("torch")

from tests.compiling import (  # noqa: E402
    COMPILED,
    assert_close,
    compiled,
    graphs,
    rows,
    with_gradients,
    written_for,
)

pytestmark = COMPILED

SHAPES = {
    "same": lambda xp, x: xp.sin(x),
    "twice": lambda xp, x: xp.concatenate([x, xp.sin(x)]),
    "one less": lambda xp, x: xp.sin(x)[1:] * x[:-1],
    "flat": lambda xp, x: xp.sin(x).reshape(-1),
    "merged and split": lambda xp, x: xp.sin(x).reshape(-1).reshape(x.shape[0], 3),
    "outer": lambda xp, x: xp.outer(x[:, 0], xp.sin(x[:, 1])),
    "pairs": lambda xp, x: xp.sin(x[:, None] - x[None, :]),
    "sum": lambda xp, x: xp.sin(x).sum(0),
    "transposed": lambda xp, x: xp.sin(x).T,
    "half": lambda xp, x: xp.sin(x)[: x.shape[0] // 2],
    "every other": lambda xp, x: xp.sin(x)[::2],
    "first three": lambda xp, x: xp.sin(x)[:3],
    "several": lambda xp, x: (x.sum(), xp.sin(x), x.argmax(1)),
}
GROWING = (4, 5, 6, 9)


@pytest.mark.parametrize("function", SHAPES.values(), ids=SHAPES)
@pytest.mark.needs("other sizes", run=False)
def test_sizes_after_the_second_share_a_graph(into_torch, function):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    step = compiled(lambda x: f(x * 2))
    for count in GROWING:
        found = with_gradients(step, rows(count))
        expected = with_gradients(lambda x: function(torch, x * 2), rows(count))
        assert_close(found, expected)
    assert graphs() == 2


@pytest.mark.parametrize("function", SHAPES.values(), ids=SHAPES)
@pytest.mark.needs("other sizes", run=False)
def test_marked_sizes_share_one_graph(into_torch, function):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    step = compiled(lambda x: f(x))
    for count in GROWING:
        x = rows(count)
        torch._dynamo.mark_dynamic(x, 0)
        assert_close(step(x), function(torch, rows(count)))
    assert graphs() == 1


def test_shapes_of_dynamic_results_are_used_downstream(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, x[1:]]))
    step = compiled(lambda x: (f(x).reshape(-1, 1), f(x).shape[0] * 10, x.new_ones(len(f(x)))))
    for count in GROWING:
        twice = torch.concatenate([rows(count), rows(count)[1:]])
        expected = (twice.reshape(-1, 1), len(twice) * 10, torch.ones(len(twice)))
        assert_close(step(rows(count)), expected)


@pytest.mark.needs("other sizes")
def test_two_dynamic_sizes(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.concatenate([x @ y.T, source.xp.sin(x) @ y.T]))
    step = compiled(lambda x, y: f(x, y))
    for n, m in ((4, 5), (5, 7), (6, 9), (8, 6)):
        x, y = rows(n), rows(m)
        expected = torch.concatenate([x @ y.T, x.sin() @ y.T])
        assert_close(with_gradients(step, x, y)[0], expected)
    assert graphs() == 2


@pytest.mark.needs("other sizes")
def test_sizes_that_meet(into_torch):
    """Sizes that JAX needs to be equal become one, as in torch: those of a batch and its labels."""
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.sin(x) * y)
    step = compiled(lambda x, y: f(x, y))
    for count in GROWING:
        assert_close(step(rows(count), rows(count)), rows(count).sin() * rows(count))
    assert graphs() == 2


def test_sizes_one_and_zero(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, source.xp.sin(x)])[1:])
    step = compiled(lambda x: f(x))
    for count in (4, 5, 1, 0, 6):
        found = with_gradients(step, rows(count))
        expected = with_gradients(lambda x: torch.concatenate([x, x.sin()])[1:], rows(count))
        assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.needs("other sizes")
def test_a_dynamic_size_under_inductor(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, source.xp.sin(x)]))
    step = compiled(lambda x: f(x * 2).exp(), "inductor", dynamic=True)
    for count in GROWING:
        found = with_gradients(step, rows(count))
        expected = with_gradients(
            lambda x: torch.concatenate([x * 2, (x * 2).sin()]).exp(), rows(count)
        )
        assert_close(found, expected)
    assert graphs() == 1


def odd_and_even(xp, x):
    return xp.sin(x) if int(x.shape[0]) % 2 else xp.cos(x)[1:]


def test_a_function_that_must_know_its_sizes_is_right_for_each(into_torch):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, odd_and_even))
    step = compiled(lambda x: f(x) * 2)
    for count in (*GROWING, 7):
        found = with_gradients(step, rows(count))
        assert_close(found, with_gradients(lambda x: odd_and_even(torch, x) * 2, rows(count)))


def test_a_function_that_must_know_its_sizes_cannot_be_marked_dynamic(into_torch):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, odd_and_even))
    x = rows()
    torch._dynamo.mark_dynamic(x, 0)
    with pytest.raises(Exception, match=r"marked .* as dynamic but your code specialized it"):
        compiled(lambda x: f(x))(x)


@pytest.mark.needs("one trace")
def test_a_compiled_call_does_not_run_the_function_again(into_torch):
    source, wrap = into_torch
    runs = []
    f = wrap(lambda x: (runs.append(1), source.xp.sin(x))[1])
    step = compiled(lambda x: f(x) * f(x + 1))
    for k in range(20):
        with_gradients(step, rows() + k)
    assert len(runs) == 1


@pytest.mark.needs("one trace")
def test_a_new_size_runs_the_function_no_more_than_eager(into_torch):
    source, wrap = into_torch
    runs = []
    f = wrap(lambda x: (runs.append(1), source.xp.sin(x))[1])
    step = compiled(lambda x: f(x))
    for count in GROWING * 3:
        with_gradients(step, rows(count))
    assert len(GROWING) <= len(runs) <= len(GROWING) + 1
