"""Functions of torch as Ops, against torch's own autograd."""

import pytest

torch = pytest.importorskip("torch")
from tests.torch_functions import (  # noqa: E402
    FUNCTIONS,
    NO_FORWARD_MODE,
    NO_TANGENTS,
    NO_VMAP,
    NO_VMAP_OF_HALVES,
    PLAIN_ONLY,
)
from tests.torch_ops import backward, close, like, op, recorded, row, smooth, spec, storages  # noqa: E402

every_function = pytest.mark.parametrize(("fn", "xs"), FUNCTIONS.values(), ids=FUNCTIONS)


def those_but(*left_out):
    names = [name for name in FUNCTIONS if not any(name in group for group in left_out)]
    return pytest.mark.parametrize(("fn", "xs"), [FUNCTIONS[n] for n in names], ids=names)


@every_function
def test_results_and_specs_equal_native(fn, xs):
    f = op(fn, *xs)
    expected = row(fn(*(x.clone() for x in xs)))
    found = f.call(*xs)
    close(found, expected)
    assert f.output_specs(*map(spec, xs)) == tuple(map(spec, expected))


@every_function
def test_results_lie_in_memory_of_their_own(fn, xs):
    before = [x.clone() for x in xs]
    f = op(fn, *xs)
    found = storages([*xs, *f.call(*xs), *f.call(*xs)])
    assert len(set(found)) == len(found)
    split = f.derive("forward_backward", smooth(xs), smooth(f.call(*xs)))
    found = storages([*xs, *split.forward.call(*xs)])
    assert len(set(found)) == len(found)
    close(xs, before, rtol=0, atol=0)


@every_function
def test_split_gives_the_gradients_of_plain_autograd(fn, xs):
    f = op(fn, *xs)
    native = row(fn(*(x.clone() for x in xs)))
    wanted, given = smooth(xs), smooth(native)
    cotangents = [like(native[i], 7 + i) for i in given]
    split = f.derive("forward_backward", wanted, given)
    results = split.forward.call(*xs)
    close(results[: split.output_count], native)
    found = backward(split, xs, results, cotangents, wanted)
    close(found, recorded(fn, xs, wanted, given, cotangents))
    close(backward(split, xs, results, cotangents, wanted[-1:]), found[-1:])


@every_function
def test_split_for_one_argument_and_one_result(fn, xs):
    f = op(fn, *xs)
    native = row(fn(*(x.clone() for x in xs)))
    wanted, given = smooth(xs)[:1], smooth(native)[-1:]
    cotangents = [like(native[i], 3) for i in given]
    split = f.derive("forward_backward", wanted, given)
    found = backward(split, xs, split.forward.call(*xs), cotangents, wanted)
    close(found, recorded(fn, xs, wanted, given, cotangents))


@every_function
def test_vjp_gives_the_gradients_of_plain_autograd(fn, xs):
    f = op(fn, *xs)
    native = row(fn(*(x.clone() for x in xs)))
    wanted, given = smooth(xs), smooth(native)
    cotangents = [like(native[i], 7 + i) for i in given]
    found = f.derive("vjp", wanted, given).call(*xs, *cotangents)
    close(found, recorded(fn, xs, wanted, given, cotangents))


def real_dot(xs, ys):
    pairs = zip(xs, ys, strict=True)
    return sum(
        (torch.view_as_real(x) * torch.view_as_real(y)).sum() if x.is_complex() else (x * y).sum()
        for x, y in pairs
    )


@those_but(PLAIN_ONLY, NO_FORWARD_MODE)
def test_jvp_equals_torch_func(fn, xs):
    f = op(fn, *xs)
    given = smooth(xs)
    tangents = [like(xs[i], 11 + i) for i in given]

    def of_given(*free):
        full = list(xs)
        for i, x in zip(given, free, strict=True):
            full[i] = x.clone()
        return tuple(y for y in row(fn(*full)) if y.is_floating_point() or y.is_complex())

    expected = torch.func.jvp(of_given, tuple(xs[i] for i in given), tuple(tangents))[1]
    close(f.derive("jvp", given).call(*xs, *tangents), expected)


@those_but(NO_TANGENTS)
def test_jvp_is_the_transpose_of_vjp(fn, xs):
    f = op(fn, *xs)
    given = smooth(xs)
    moving = [like(xs[i], 11 + i) for i in given]
    results = smooth(f.call(*xs))
    cotangents = [like(f.call(*xs)[i], 5 + i) for i in results]
    tangents = f.derive("jvp", given).call(*xs, *moving)
    gradients = f.derive("vjp", given, results).call(*xs, *cotangents)
    torch.testing.assert_close(real_dot(tangents, cotangents), real_dot(moving, gradients))


def batches(xs, size):
    """The arguments with an axis of examples: the last, the first and none by turns."""
    axes, grown = [], []
    for i, x in enumerate(xs):
        axis = (-1, 0, None)[i % 3]
        rows = [x if n == 0 else like(x, n) for n in range(size)]
        axes.append(axis)
        grown.append(x if axis is None else torch.stack(rows, dim=axis).contiguous())
    return tuple(axes), grown


def examples(xs, axes, size):
    for n in range(size):
        yield [x if a is None else x.select(a, n) for x, a in zip(xs, axes, strict=True)]


@those_but(NO_VMAP)
def test_vmap_equals_a_loop(fn, xs):
    axes, many = batches(xs, 4)
    found = op(fn, *xs).derive("vmap", axes, 4).call(*many)
    each = [row(fn(*(x.clone() for x in example))) for example in examples(many, axes, 4)]
    close(found, [torch.stack(ys) for ys in zip(*each, strict=True)])


@those_but(NO_VMAP)
def test_vjp_of_vmap_equals_a_loop(fn, xs):
    axes, many = batches(xs, 3)
    batched = op(fn, *xs).derive("vmap", axes, 3)

    def loop(*args):
        each = [row(fn(*(x.clone() for x in example))) for example in examples(args, axes, 3)]
        return [torch.stack(ys) for ys in zip(*each, strict=True)]

    native = loop(*many)
    wanted, given = smooth(many), smooth(native)
    cotangents = [like(native[i], 7 + i) for i in given]
    expected = recorded(loop, many, wanted, given, cotangents)
    close(batched.derive("vjp", wanted, given).call(*many, *cotangents), expected)
    if split := batched.try_forward_backward(wanted, given):
        results = split.forward.call(*many)
        close(backward(split, many, results, cotangents, wanted), expected)


@those_but(NO_VMAP, NO_VMAP_OF_HALVES)
def test_halves_can_be_batched(fn, xs):
    axes, many = batches(xs, 3)
    f = op(fn, *xs)
    native = row(fn(*(x.clone() for x in xs)))
    wanted, given = smooth(xs), smooth(native)
    split = f.derive("forward_backward", wanted, given)
    results = split.forward.derive("vmap", axes, 3).call(*many)
    cotangents = [torch.stack([like(native[i], 7 + i + n) for n in range(3)]) for i in given]
    kept = [many[i] for i in split.saved_primals]
    rest = [*(results[i] for i in split.saved_outputs), *results[split.output_count :], *cotangents]
    inputs = (*(axes[i] for i in split.saved_primals), *[0] * len(rest))
    found = split.backward(wanted).derive("vmap", inputs, 3).call(*kept, *rest)
    expected = [
        recorded(fn, example, wanted, given, [c[n] for c in cotangents])
        for n, example in enumerate(examples(many, axes, 3))
    ]
    close(found, [torch.stack(gs) for gs in zip(*expected, strict=True)])


def second_order(fn, xs, wanted, given, cotangents, others):
    """Gradients of the gradients, by plain autograd twice."""

    def gradients(*args):
        free = args[: len(xs)]
        ys = row(fn(*(x.clone() for x in free)))
        pairs = [
            (ys[i], c) for i, c in zip(given, args[len(xs) :], strict=True) if ys[i].requires_grad
        ]
        outputs, cs = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            outputs, [free[i] for i in wanted], cs, create_graph=True, allow_unused=True
        )
        return [
            torch.zeros_like(free[i]) if g is None else g
            for i, g in zip(wanted, found, strict=True)
        ]

    args = [*xs, *cotangents]
    return recorded(gradients, args, smooth(args), tuple(range(len(wanted))), others)


@every_function
def test_second_order_equals_plain_autograd(fn, xs):
    f = op(fn, *xs)
    native = row(fn(*(x.clone() for x in xs)))
    wanted, given = smooth(xs), smooth(native)
    cotangents = [like(native[i], 7 + i) for i in given]
    others = [like(xs[i], 13 + i) for i in wanted]
    args = [*xs, *cotangents]
    expected = second_order(fn, xs, wanted, given, cotangents, others)
    gradients = f.derive("vjp", wanted, given)
    every = tuple(range(len(wanted)))
    close(gradients.derive("vjp", smooth(args), every).call(*args, *others), expected)
    split = gradients.derive("forward_backward", smooth(args), every)
    results = split.forward.call(*args)
    close(backward(split, args, results, others, smooth(args)), expected)
