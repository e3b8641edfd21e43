"""Random small programs, written once for each framework.

They are built by running them in torch, so that shapes fit, numbers stay small, and points where
a derivative jumps are avoided.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import HealthCheck, strategies as st

LARGEST = 20.0
GAP = 1e-3


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation in every framework.

    Attributes:
        arity: How many arrays it takes.
        here: In torch, on arrays and then constants.
        there: The same with the names that JAX and MLX share, on one of these and the rest.
        constants: Draws these, given the arrays; none by default.
        smooth: Whether it has a derivative at these arrays; always by default.
    """

    arity: int
    here: Callable[..., Any]
    there: Callable[..., Any]
    constants: Callable[..., tuple | None] = lambda draw, *xs: ()
    smooth: Callable[..., bool] = lambda *xs: True


def real(*xs):
    return not any(x.is_complex() for x in xs)


def apart(a, b):
    """Whether no number of `a` is near its partner in `b`, where a comparison would jump."""
    return real(a, b) and bool(((a - b).abs() > GAP).all())


def distinct(x, axis):
    """Whether no two numbers along an axis are near each other."""
    if not real(x) or x.dim() == 0:
        return False
    return bool((x.sort(axis).values.diff(dim=axis) > GAP).all())


def alike(fn, arity=1, **more):
    """An operation that is spelled the same everywhere."""
    return Operation(arity, functools.partial(fn, torch), fn, **more)


# What constants are drawn; `None` where an operation does not apply.


def an_axis(draw, x, *_):
    return (draw(st.integers(-x.dim(), x.dim() - 1)),) if x.dim() else None


def a_common_axis(draw, a, b):
    return an_axis(draw, a) if a.dim() == b.dim() else None  # torch alone adds nothing to anything


def axes(draw, x):
    some = draw(st.sets(st.integers(0, x.dim() - 1))) if x.dim() else set()
    return tuple(sorted(some)) or tuple(range(x.dim())), draw(st.booleans())


def a_permutation(draw, x):
    return (tuple(draw(st.permutations(range(x.dim())))),)


def a_shape(draw, x):
    shapes = [(-1,), tuple(x.shape)[::-1], (1, *x.shape), (*x.shape, 1)]
    return (draw(st.sampled_from(shapes if x.numel() else shapes[1:])),)


def slices(draw, x):
    found = []
    for size in x.shape:
        start = draw(st.integers(0, size))
        found.append(slice(start, draw(st.integers(start, size)), draw(st.integers(1, 2))))
    return (tuple(found),)


def some_indices(draw, x):
    if not x.dim() or not len(x):
        return None
    number = st.integers(-len(x), len(x) - 1)
    return (draw(st.lists(number, min_size=1, max_size=4)),)


def one_index(draw, x):
    return (draw(st.integers(-len(x), len(x) - 1)),) if x.dim() and len(x) else None


def a_larger_shape(draw, x):
    return ((draw(st.integers(1, 3)), *x.shape),)


def a_number(draw, *_):
    return (draw(st.sampled_from([-2, -0.5, 0.25, 3, True])),)


def a_dtype(draw, x):
    wider = {torch.float32: "complex64", torch.float64: "complex128"}
    narrower = {torch.float64: "float32", torch.complex128: "complex64"}
    known = [names[x.dtype] for names in (wider, narrower) if x.dtype in names]
    return (draw(st.sampled_from(known)),) if known else None


OPERATIONS = {
    "add": alike(lambda xp, a, b: a + b, 2),
    "sub": alike(lambda xp, a, b: a - b, 2),
    "mul": alike(lambda xp, a, b: a * b, 2),
    "div": alike(lambda xp, a, b: a / (1.5 + b * xp.conj(b)), 2),
    "times a number": alike(lambda xp, a, n: a * n, constants=a_number),
    "number minus": alike(lambda xp, a, n: n - a, constants=a_number),
    "neg": alike(lambda xp, a: -a),
    "square": alike(lambda xp, a: a**2),
    "sin": alike(lambda xp, a: xp.sin(a)),
    "cos": alike(lambda xp, a: xp.cos(a)),
    "tanh": alike(lambda xp, a: xp.tanh(a), smooth=real),
    "exp": alike(lambda xp, a: xp.exp(a / 4)),
    "log": alike(lambda xp, a: xp.log(2 + a * a), smooth=real),
    "sqrt": alike(lambda xp, a: xp.sqrt(1 + a * a), smooth=real),
    "abs": alike(lambda xp, a: xp.abs(a), smooth=lambda a: bool((a.abs() > GAP).all())),
    "maximum": alike(lambda xp, a, b: xp.maximum(a, b), 2, smooth=apart),
    "conj": alike(lambda xp, a: xp.conj(a)),
    "real": alike(lambda xp, a: xp.real(a)),
    "imag": alike(lambda xp, a: xp.imag(a), smooth=lambda a: a.is_complex()),
    "sum": Operation(
        1,
        lambda a, axis, keep: a.sum(axis, keepdim=keep) if axis else a.sum(),
        lambda xp, a, axis, keep: xp.sum(a, axis, keepdims=keep),
        axes,
    ),
    "mean": Operation(
        1,
        lambda a, axis, keep: a.mean(axis, keepdim=keep) if axis else a.mean(),
        lambda xp, a, axis, keep: xp.mean(a, axis, keepdims=keep),
        axes,
    ),
    "cumsum": Operation(1, torch.cumsum, lambda xp, a, axis: xp.cumsum(a, axis), an_axis),
    "largest": Operation(
        1, torch.amax, lambda xp, a, axis: xp.max(a, axis), an_axis, lambda a, *c: distinct(a, *c)
    ),
    "sort": Operation(
        1,
        lambda a, axis: torch.sort(a, dim=axis).values,
        lambda xp, a, axis: xp.sort(a, axis=axis),
        an_axis,
        lambda a, *c: distinct(a, *c),
    ),
    "matmul": alike(lambda xp, a, b: a @ b, 2),
    "gram": alike(lambda xp, a: a @ xp.swapaxes(a, -1, -2)),
    "transpose": Operation(
        1, torch.permute, lambda xp, a, order: xp.transpose(a, order), a_permutation
    ),
    "reshape": alike(lambda xp, a, shape: a.reshape(shape), constants=a_shape),
    "slice": alike(lambda xp, a, at: a[at], constants=slices),
    "item": alike(lambda xp, a, i: a[i], constants=one_index),
    "index": Operation(
        1, lambda a, i: a[torch.tensor(i)], lambda xp, a, i: a[xp.array(i)], some_indices
    ),
    "flip": Operation(1, lambda a, i: a.flip(i), lambda xp, a, i: xp.flip(a, i), an_axis),
    "roll": Operation(1, lambda a, i: a.roll(1, i), lambda xp, a, i: xp.roll(a, 1, i), an_axis),
    "broadcast": alike(lambda xp, a, shape: xp.broadcast_to(a, shape), constants=a_larger_shape),
    "concatenate": Operation(
        2,
        lambda a, b, axis: torch.cat([a, b], axis),
        lambda xp, a, b, axis: xp.concatenate([a, b], axis),
        a_common_axis,
    ),
    "stack": alike(lambda xp, a, b: xp.stack([a, b]), 2),
    "astype": Operation(
        1,
        lambda a, name: a.to(getattr(torch, name)),
        lambda xp, a, name: a.astype(getattr(xp, name)),
        a_dtype,
    ),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """Steps on a growing list of arrays, which begins with the inputs.

    Attributes:
        steps: Each an operation, the positions of its arrays, and its constants.
        outputs: Positions of the results.
        inputs: Of each a shape, a dtype and a layout.
        seed: Of their values.
    """

    steps: tuple[tuple[str, tuple[int, ...], tuple], ...]
    outputs: tuple[int, ...]
    inputs: tuple[tuple[tuple[int, ...], str, str], ...]
    seed: int

    def here(self, *xs):
        return self._run(torch.where, lambda name: OPERATIONS[name].here, *xs)

    def there(self, xp):
        """The program in JAX or MLX, whose namespace this is."""
        function = lambda name: functools.partial(OPERATIONS[name].there, xp)
        return functools.partial(self._run, xp.where, function)

    def _run(self, where, function, *xs):
        found = list(xs)
        for name, at, constants in self.steps:
            if name == "where":  # on an input, where rounding does not decide
                condition, a, b = (found[i] for i in at)
                found.append(where(condition.real > 0, a, b))
            else:
                found.append(function(name)(*(found[i] for i in at), *constants))
        return tuple(found[i] for i in self.outputs)


# Layouts: each makes a view of this shape from numbers of its own.


def numbers(random, shape, dtype):
    values = random.uniform(-1.5, 1.5, shape)
    if "complex" in dtype:
        values = values + 1j * random.uniform(-1.5, 1.5, shape)
    return torch.tensor(values).to(getattr(torch, dtype))


def _strided(random, shape, dtype):
    if not shape:
        return numbers(random, (5,), dtype), lambda b: b[3]
    return numbers(random, (*shape[:-1], 2 * shape[-1] + 1), dtype), lambda b: b[..., 1::2]


def _expanded(random, shape, dtype):
    return numbers(random, (1, *shape[1:]) if shape else (), dtype), lambda b: b.expand(shape)


def _unaligned(random, shape, dtype):
    return numbers(random, (math.prod(shape) + 1,), dtype), lambda b: b[1:].view(shape)


def _lazy(random, shape, dtype):
    """A conjugation that torch puts off, or a negation of real numbers."""
    if "complex" in dtype:
        return numbers(random, shape, dtype), lambda b: b.conj()
    twice = "complex64" if dtype == "float32" else "complex128"
    return numbers(random, shape, twice), lambda b: b.conj().imag


LAYOUTS = {
    "dense": lambda *about: (numbers(*about), lambda b: b),
    "transposed": lambda random, shape, dtype: (numbers(random, shape[::-1], dtype), _turned),
    "strided": _strided,
    "expanded": _expanded,
    "unaligned": _unaligned,
    "lazy": _lazy,
}


def _turned(b):
    return b.permute(tuple(range(b.dim()))[::-1])


def arguments(program, *, batch=()):
    """For each input a base tensor and the view of it that is passed."""
    random = np.random.default_rng(program.seed)
    return [LAYOUTS[layout](random, (*batch, *s), dtype) for s, dtype, layout in program.inputs]


SINGLE, DOUBLE = ("float32", "complex64"), ("float64", "complex128")


@st.composite
def programs(draw, precisions=(SINGLE, DOUBLE)):
    """A program whose every step torch can run, with moderate numbers."""
    dtypes = draw(st.sampled_from(precisions))
    full = draw(st.lists(st.sampled_from([0, 1, 2, 2, 3, 3, 4]), max_size=3))
    inputs = tuple(
        (_like(draw, full), draw(st.sampled_from(dtypes)), draw(st.sampled_from([*LAYOUTS])))
        for _ in range(draw(st.integers(1, 3)))
    )
    program = Program((), (), inputs, draw(st.integers(0, 10_000)))
    found = [view(base) for base, view in arguments(program)]
    steps = []
    for _ in range(draw(st.integers(1, 7))):
        step, value = _step(draw, found, len(inputs))
        if step:
            steps.append(step)
            found.append(value)
    hypothesis.assume(steps)
    others = draw(st.sets(st.integers(0, len(found) - 1), max_size=2))
    outputs = (len(found) - 1, *sorted(others))
    return dataclasses.replace(program, steps=tuple(steps), outputs=outputs)


def _like(draw, full):
    """A shape that broadcasts with `full`."""
    kept = full[draw(st.integers(0, len(full))) if draw(st.booleans()) else 0 :]
    return tuple(1 if draw(st.integers(0, 4)) == 0 else size for size in kept)


def _step(draw, found, inputs):
    """A step on the arrays found so far and its value; nothing if torch refuses."""
    name = draw(st.sampled_from([*OPERATIONS, "where"]))
    arity = 3 if name == "where" else OPERATIONS[name].arity
    last = len(found) - 1
    at = [draw(st.one_of(st.just(last), st.integers(0, last))) for _ in range(arity)]
    if name == "where":
        at[0] = draw(st.integers(0, inputs - 1))
    xs = [found[i] for i in at]
    constants = () if name == "where" else OPERATIONS[name].constants(draw, *xs)
    if constants is None:
        return None, None
    step = (name, tuple(at), constants)
    try:
        if not _smooth(name, xs, constants):
            return None, None
        value = Program((step,), (len(found),), (), 0).here(*found)[0]
    except (RuntimeError, IndexError):  # shapes that do not fit
        return None, None
    small = value.numel() <= 200 and bool((value.abs() <= LARGEST).all())
    return (step, value) if small else (None, None)


def _smooth(name, xs, constants):
    if name == "where":  # of one kind: torch cannot differentiate it otherwise
        return real(xs[1]) == real(xs[2])
    return OPERATIONS[name].smooth(*xs, *constants)


def tolerance(program):
    """Single precision, if anything in the program is."""
    names = [dtype for _, dtype, _ in program.inputs] + [c for *_, cs in program.steps for c in cs]
    single = any(name in ("float32", "complex64") for name in names if isinstance(name, str))
    return {"rtol": 1e-3, "atol": 1e-3} if single else {"rtol": 1e-8, "atol": 1e-8}


def agree(found, expected, how):
    """Raise unless all arrays agree, relative to the largest number of each."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1.0, b.detach().abs().max().item()) if b.numel() else 1.0
        # No quotients: that of a number torch has wrapped, as some zeros are, has another dtype.
        torch.testing.assert_close(a, b, rtol=how["rtol"], atol=how["atol"] * scale)


def random_like(xs, seed):
    random = np.random.default_rng(seed)
    return [numbers(random, tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in xs]


def one_by_one(fn, axes, xs):
    """What `torch.func.vmap` gives, which has no rules for some operations and layouts."""
    rows = [
        fn(*(x if axis is None else x[i] for x, axis in zip(xs, axes, strict=True)))
        for i in range(2)
    ]
    return tuple(torch.stack(ys) for ys in zip(*rows, strict=True))


def settings(**more):
    return hypothesis.settings(
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
        print_blob=True,
        **more,
    )
