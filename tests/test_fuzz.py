"""Random small programs in every direction, in values and derivatives.

What is right is said by torch, and for calls from JAX by JAX, which conjugates otherwise.
"""

import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hypothesis = pytest.importorskip("hypothesis")

import bridge  # noqa: E402, behind the skips
from bridge import NoRuleError  # noqa: E402
from tests import processes  # noqa: E402
from tests.kits import kit  # noqa: E402
from tests.programs import (  # noqa: E402
    DOUBLE,
    LAYOUTS,
    OPERATIONS,
    SINGLE,
    agree,
    arguments,
    one_by_one,
    programs,
    random_like,
    settings,
    tolerance,
)


def gradients(fn, program, cotangents):
    """Of the bases, through the views."""
    made = arguments(program)
    bases = [base.requires_grad_() for base, _ in made]
    outputs = fn(*(view(base) for base, (_, view) in zip(bases, made, strict=True)))
    used = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not used:
        return [torch.zeros_like(base) for base in bases]
    return torch.autograd.grad(
        [y for y, _ in used],
        bases,
        [c for _, c in used],
        allow_unused=True,
        materialize_grads=True,
    )


def tangents(fn, program):
    """Of the results, where the bases move: torch cannot move every view."""
    bases, views = zip(*arguments(program), strict=True)
    on_bases = lambda *bs: fn(*(view(b) for view, b in zip(views, bs, strict=True)))
    return torch.func.jvp(on_bases, bases, tuple(random_like(bases, program.seed + 2)))[1]


def expected_tangents(program):
    """Those of torch; `None` where it fails in itself, as for lazy conjugates without axes."""
    try:
        return tangents(program.here, program)
    except RuntimeError as error:
        if "INTERNAL ASSERT FAILED" not in str(error):
            raise
        return None


def in_the_dtypes_of(tangents, outputs):
    """`tangents` of torch 2.13, where that of a 0-d float32 by a number is float64."""
    return [t.to(y.dtype) for t, y in zip(tangents, outputs, strict=True)]


def a_batch(program):
    """Arguments of which some have one more axis, and `in_axes`."""
    xs, batches = ([v(b) for b, v in arguments(program, batch=n)] for n in ((), (2,)))
    axes = tuple(0 if (program.seed >> i) % 2 or i == 0 else None for i in range(len(xs)))
    mapped = [x if axis is None else b for x, b, axis in zip(xs, batches, axes, strict=True)]
    return axes, mapped


def twice(fn, xs, cotangents, directions):
    """The gradient along `directions` of the gradient, and the tangent of that."""
    slope = lambda *xs: torch.func.vjp(fn, *xs)[1](tuple(cotangents))
    found = torch.func.vjp(slope, *xs)[1](tuple(directions))
    return *found, *torch.func.jvp(slope, tuple(xs), tuple(directions))[1]


def expected_twice(program, xs, cotangents, directions):
    """The same of torch; nothing where it has no second derivative, and for most programs."""
    if program.seed % 4:
        return ()
    try:
        found = twice(program.here, xs, cotangents, directions)
    except RuntimeError:
        return ()
    return in_the_dtypes_of(found, [*xs, *xs])


def check_in_torch(into, program):
    """Values, gradient, tangent and batch of a program are those of torch."""
    residuals = ("auto", "save", "recompute")[program.seed % 3]
    there, here = into(program, residuals=residuals), program.here
    how = tolerance(program)
    xs = [view(base) for base, view in arguments(program)]
    outputs = here(*xs)
    agree(there(*xs), outputs, how)

    axes, mapped = a_batch(program)
    agree(torch.func.vmap(there, in_dims=axes)(*mapped), one_by_one(here, axes, mapped), how)

    found, expected = tangents(there, program), expected_tangents(program)
    if expected is not None:
        agree(found, in_the_dtypes_of(expected, outputs), how)

    cotangents = random_like(outputs, program.seed + 1)
    agree(gradients(there, program, cotangents), gradients(here, program, cotangents), how)

    about = [x.clone() for x in xs], cotangents, random_like(xs, program.seed + 2)
    if expected := expected_twice(program, *about):
        agree(twice(there, *about), expected, how)


def on_the_host(xs):
    return [x.numpy(force=True) for x in xs]


def as_tensors(xs):
    return [torch.tensor(np.array(x)) for x in xs]


def check_in_jax(into, program):
    """The same in compiled JAX, beside the program of JAX."""
    jax = pytest.importorskip("jax")
    how, native = tolerance(program), program.there(jax.numpy)
    xs = [view(base) for base, view in arguments(program)]
    outputs = program.here(*xs)
    cotangents = random_like(outputs, program.seed + 1)
    directions = random_like(xs, program.seed + 2)
    axes, mapped = a_batch(program)
    xs, cotangents, directions, mapped = map(on_the_host, (xs, cotangents, directions, mapped))
    questions = (
        (lambda f: f, xs),
        (lambda f: jax.vmap(f, in_axes=axes), mapped),
        (lambda f: lambda *vs: jax.jvp(f, xs, list(vs))[1], directions),
        (lambda f: lambda *cts: jax.vjp(f, *xs)[1](cts), cotangents),
    )
    if not program.seed % 4:
        slope = lambda f: lambda *xs: jax.vjp(f, *xs)[1](tuple(cotangents))
        questions += (
            (lambda f: lambda *vs: jax.vjp(slope(f), *xs)[1](vs), directions),
            (lambda f: lambda *vs: jax.jvp(slope(f), xs, list(vs))[1], directions),
        )
    with jax.enable_x64(True):
        # torch makes less of the dtype of a number than JAX does.
        dtypes = [y.dtype for y in as_tensors(native(*xs))]
        hypothesis.assume(dtypes == [y.dtype for y in outputs])
        there = into(program)
        for transform, on in questions:
            found, expected = (jax.jit(transform(f))(*on) for f in (there, native))
            agree(as_tensors(found), as_tensors(expected), how)


def check_in_mlx(into, program):
    """The same in MLX, which has the gradients of torch."""
    mx = pytest.importorskip("mlx.core")
    how, here, there = tolerance(program), program.here, into(program)
    every = lambda *xs: list(there(*xs))
    xs = [view(base).clone() for base, view in arguments(program)]
    outputs = here(*xs)
    cotangents = random_like(outputs, program.seed + 1)
    directions = random_like(xs, program.seed + 2)
    axes, mapped = a_batch(program)
    inside = lambda ts: [mx.array(x) for x in on_the_host(ts)]

    agree(as_tensors(there(*inside(xs))), outputs, how)
    batch = mx.vmap(there, in_axes=axes)(*inside(mapped))
    agree(as_tensors(batch), one_by_one(here, axes, mapped), how)
    moved = torch.func.jvp(here, tuple(xs), tuple(directions))[1]
    found = mx.jvp(every, inside(xs), inside(directions))[1]
    agree(as_tensors(found), in_the_dtypes_of(moved, outputs), how)
    pulled = torch.func.vjp(here, *xs)[1](tuple(cotangents))
    found = mx.vjp(every, inside(xs), inside(cotangents))[1]
    agree(as_tensors(found), pulled, how)

    if expected := expected_twice(program, xs, cotangents, directions):
        given = inside(cotangents)
        slope = lambda *xs: mx.vjp(every, list(xs), given)[1]
        curved = mx.vjp(slope, inside(xs), inside(directions))[1]
        moved = mx.jvp(slope, inside(xs), inside(directions))[1]
        agree(as_tensors([*curved, *moved]), expected, how)


def source(name):
    """What calls the program as it is written in a framework."""
    if name == "torch":
        return lambda program: program.here
    return lambda program: program.there(kit(name).xp)


def wrapped(name, home, **options):
    return lambda program, **more: getattr(bridge, name)(source(home)(program), **options, **more)


BOTH = SINGLE, DOUBLE
# How programs are checked, of which precision, and how many in an ordinary run.
DIRECTIONS = {
    "jax2torch": (check_in_torch, wrapped("jax2torch", "jax"), BOTH, 100),
    "mlx2torch": (check_in_torch, wrapped("mlx2torch", "mlx"), (SINGLE,), 100),
    "torch2jax": (check_in_jax, wrapped("torch2jax", "torch"), BOTH, 25),
    "torch2jax, xla": (check_in_jax, wrapped("torch2jax", "torch", lower="xla"), BOTH, 25),
    "mlx2jax": (check_in_jax, wrapped("mlx2jax", "mlx"), (SINGLE,), 25),
    "torch2mlx": (check_in_mlx, wrapped("torch2mlx", "torch"), (SINGLE,), 40),
    "jax2mlx": (check_in_mlx, wrapped("jax2mlx", "jax"), (SINGLE,), 25),
}


def refused(direction, program):
    """What may be raised for gradients, which come last.

    MLX has some of complex numbers wrong, ends the process over items of empty arrays, and looks
    for the place of the largest element in those that have none.
    """
    if not direction.startswith("mlx"):
        return []
    names = {name for name, *_ in program.steps}
    empty = any(0 in shape for shape, *_ in program.inputs) or "slice" in names
    wrong = [NoRuleError] if {"square", "abs", "item"} & names else []
    return [*wrong, ValueError] if empty and "largest" in names else wrong


def run(direction, count=None, **how):
    check, into, precisions, few = DIRECTIONS[direction]
    for name in ("jax", "mlx"):
        if name in direction:
            kit(name)

    @settings(max_examples=count or few, **how)
    @hypothesis.given(programs(precisions))
    def try_one(program):
        with contextlib.suppress(*refused(direction, program)):
            check(into, program)

    try_one()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_programs_are_what_they_are_at_home(direction):
    run(direction, derandomize=True)


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_many_programs_are_what_they_are_at_home(direction, part):
    """In parts, so that workers share them and give their memory back."""
    run(direction, 500 if direction == "jax2torch" else 120)
    processes.forget_programs()


def test_operations_are_all_met():
    """The programs of the ordinary test are not all alike."""
    met, shapes, dtypes, layouts = set(), set(), set(), set()

    @settings(max_examples=600, derandomize=True, phases=[hypothesis.Phase.generate])
    @hypothesis.given(programs())
    def look(program):
        met.update(name for name, _, _ in program.steps)
        for shape, dtype, layout in program.inputs:
            shapes.add(shape)
            dtypes.add(dtype)
            layouts.add(layout)

    look()
    assert met == {*OPERATIONS, "where"}
    assert () in shapes
    assert any(0 in shape for shape in shapes)
    assert dtypes == {"float32", "float64", "complex64", "complex128"}
    assert layouts == {*LAYOUTS}
