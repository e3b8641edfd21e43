"""Functions on NumPy arrays in torch: values and derivatives are those of the same mathematics."""

import collections
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from bridge import numpy2torch  # noqa: E402
from bridge.rules import (  # noqa: E402
    ComplexStep,
    FiniteDifference,
    Jvp,
    ParameterShift,
    Vjp,
)

RANDOM = np.random.default_rng(15)
MIX = RANDOM.normal(size=(2, 3))
FINE = FiniteDifference(accuracy=6)


def tensor(*shape, dtype=torch.float64):
    return torch.tensor(RANDOM.uniform(0.2, 1.4, shape), dtype=dtype)


def leaf(*shape, dtype=torch.float64):
    return tensor(*shape, dtype=dtype).requires_grad_()


def smooth(x, w):
    """Two results of different shapes, neither symmetric nor linear in anything."""
    return np.sin(x @ MIX + w) * np.exp(0.3 * w[..., ::-1]), (x**2).sum(-1) * np.cos(w.sum(-1))


def smooth_native(x, w):
    first = torch.sin(x @ torch.tensor(MIX) + w) * torch.exp(0.3 * w.flip(-1))
    return first, (x**2).sum(-1) * torch.cos(w.sum(-1))


def angles(x, w):
    """A Fourier sum of frequency 1 in every element."""
    first = np.sin(x[..., :1] + w) * np.cos(x[..., 1:])
    return first, np.cos(x[..., 0]) * np.sin(w[..., 0] + x[..., 1]) * np.cos(w[..., 2])


def angles_native(x, w):
    first = torch.sin(x[..., :1] + w) * torch.cos(x[..., 1:])
    return first, torch.cos(x[..., 0]) * torch.sin(w[..., 0] + x[..., 1]) * torch.cos(w[..., 2])


def as_tensors(arrays):
    return tuple(torch.tensor(np.asarray(x)) for x in arrays)


def own_vjp(primals, cotangents, outputs):
    pullback = vjp(smooth_native, *as_tensors(primals))[1]
    return tuple(g.numpy() for g in pullback(as_tensors(cotangents)))


def own_jvp(primals, tangents):
    return tuple(
        t.numpy() for t in jvp(smooth_native, as_tensors(primals), as_tensors(tangents))[1]
    )


RULES = {
    "shifts": (ParameterShift(), 1e-10),
    "differences": (FINE, 1e-3),
    "forward differences": (FiniteDifference(accuracy=4, strategy="forward"), 2e-2),
    "complex steps": (ComplexStep(then=FINE), 1e-5),
    "vjp": (Vjp(own_vjp, then=FINE), 1e-5),
    "jvp": (Jvp(own_jvp, then=FINE), 1e-5),
    "mixed": ({"x": Vjp(own_vjp, then=FINE), "w": FINE}, 1e-3),
}

X, W, V = tensor(2), tensor(3), tensor(2)
TRANSFORMS = {
    "batch": lambda f: vmap(f)(tensor_like(4, 2), tensor_like(4, 3)),
    "shared weights": lambda f: vmap(f, (0, None))(tensor_like(4, 2), W),
    "axis 1": lambda f: vmap(f, (1, -1), out_dims=(1, 0))(tensor_like(2, 4), tensor_like(3, 4)),
    "nested": lambda f: vmap(vmap(f, (1, 0)), (1, 0))(tensor_like(2, 5, 4), tensor_like(5, 4, 3)),
    "three batches": lambda f: vmap(vmap(vmap(f, (0, None)), (None, 0)), (0, None))(
        tensor_like(3, 4, 2), tensor_like(5, 3)
    ),
    "chunks": lambda f: vmap(f, (0, None), chunk_size=3)(tensor_like(7, 2), W),
    "jacrev": lambda f: jacrev(f, (0, 1))(X, W),
    "jacfwd": lambda f: jacfwd(f, (0, 1))(X, W),
    "batch of jacobians": lambda f: vmap(jacrev(f, (0, 1)), (0, None))(tensor_like(4, 2), W),
    "jacobian of a batch": lambda f: jacrev(vmap(f, (1, 0)), (0, 1))(
        tensor_like(2, 4), tensor_like(4, 3)
    ),
    "tangents of a batch": lambda f: jacfwd(vmap(f, (1, None)), (0, 1))(tensor_like(2, 4), W),
    "per sample": lambda f: vmap(grad(lambda w, x: f(x, w)[0].square().sum()), (None, 0))(
        W, tensor_like(4, 2)
    ),
    "both results": lambda f: grad(lambda x, w: (f(x, w)[0] * f(x, w)[1]).sum(), (0, 1))(X, W),
    "one result unused": lambda f: grad(lambda x, w: f(x, w)[1], (0, 1))(X, W),
    "tangents alone in a batch": lambda f: vmap(lambda v: jvp(lambda x: f(x, W), (X,), (v,)))(
        tensor_like(5, 2)
    ),
    "cotangents alone in a batch": lambda f: vmap(vjp(f, X, W)[1])(
        (tensor_like(5, 3), tensor_like(5))
    ),
    "hessian": lambda f: hessian(lambda x, w: f(x, w)[0], (0, 1))(X, W),
    "reverse twice": lambda f: jacrev(jacrev(f, 0), (0, 1))(X, W),
    "forward twice": lambda f: jacfwd(jacfwd(f, 0), 1)(X, W),
    "reverse over forward": lambda f: jacrev(jacfwd(f, 0), 1)(X, W),
    "vjp of jvp": lambda f: vjp(lambda x, v: jvp(lambda x: f(x, W), (x,), (v,))[1], X, V)[1](
        (tensor_like(3), tensor_like())
    ),
    "hessians of batches": lambda f: vmap(hessian(lambda w, x: vmap(f, (0, None))(x, w)[1].sum()))(
        tensor_like(2, 3), tensor_like(2, 4, 2)
    ),
}
THIRD = {
    "reverse": lambda f: jacrev(jacrev(jacrev(lambda x, w: f(x, w)[1], 0), 1), 0)(X, W),
    "mixed": lambda f: jacfwd(jacfwd(jacrev(lambda x, w: f(x, w)[0], 0), 1), 1)(X, W),
}


def tensor_like(*shape):
    return torch.tensor(np.random.default_rng([len(shape), *shape]).uniform(0.2, 1.4, shape))


def assert_like_native(transform, rule, tolerance, **options):
    is_angles = isinstance(rule, ParameterShift)
    f = numpy2torch(angles if is_angles else smooth, gradient=rule, **options)
    actual = transform(f)
    expected = transform(angles_native if is_angles else smooth_native)
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        torch.testing.assert_close(a, e, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("rule", RULES)
def test_transforms_are_those_of_torch(rule, transform):
    assert_like_native(TRANSFORMS[transform], *RULES[rule])


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_vectorized_functions_too(transform, batch_size):
    rule = RULES["shifts"]
    assert_like_native(TRANSFORMS[transform], *rule, vectorized=True, batch_size=batch_size)


@pytest.mark.parametrize("transform", THIRD)
@pytest.mark.parametrize("rule", ["shifts", "differences"])
def test_third_derivatives(rule, transform):
    rule, tolerance = RULES[rule]
    assert_like_native(THIRD[transform], rule, 50 * tolerance, vectorized=True)


def test_autograd_checks_every_mode():
    f = numpy2torch(angles, gradient=ParameterShift())
    xs, modes = (leaf(2), leaf(3)), {"check_batched_grad": True}
    assert torch.autograd.gradcheck(
        f, xs, check_forward_ad=True, check_batched_forward_grad=True, **modes
    )
    assert torch.autograd.gradgradcheck(f, xs, check_fwd_over_rev=True, **modes)


def test_functional_hessian_in_one_batch():
    f, x = numpy2torch(angles, gradient=ParameterShift()), tensor(2)
    actual, expected = (
        torch.autograd.functional.hessian(lambda x, g=g: g(x, W)[1], x, vectorize=True)
        for g in (f, angles_native)
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("rule", ["shifts", "forward differences", "complex steps"])
def test_compiled_whole(rule):
    torch.compiler.reset()
    rule, tolerance = RULES[rule]
    f = numpy2torch(np.sin, gradient=rule)
    compiled, x = torch.compile(lambda x: (f(x) * x).sum(), fullgraph=True), leaf(3)
    compiled(x).backward()
    z = x.detach()
    torch.testing.assert_close(x.grad, z * z.cos() + z.sin(), atol=tolerance, rtol=tolerance)


def test_frequencies_for_each_element():
    def fn(x):
        return np.sin(x[0]) * np.cos(3 * x[1] + 0.4) + np.sin(0.5 * x[1])

    f, x = numpy2torch(fn, gradient=ParameterShift(((1.0,), (0.5, 2.5, 3.0, 3.5)))), leaf(2)
    native = torch.sin(x[0]) * torch.cos(3 * x[1] + 0.4) + torch.sin(0.5 * x[1])
    expected = torch.autograd.grad(native, x)
    torch.testing.assert_close(torch.autograd.grad(f(x), x), expected, atol=1e-9, rtol=0)


def test_complex_arguments_and_results_have_the_convention_of_torch():
    def fn(x):
        return abs(x) ** 2 * x.conj() + 2j * x

    x = torch.complex(tensor(3), tensor(3)).requires_grad_()
    w, f = torch.complex(tensor(3), -tensor(3)), numpy2torch(fn, gradient=FINE)
    found, expected = (torch.autograd.grad(y, x, w) for y in (f(x), fn(x)))
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    z = x.detach()
    torch.testing.assert_close(jvp(f, (z,), (w,))[1], jvp(fn, (z,), (w,))[1], atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "rule", [Vjp(lambda p, c, y: (c * (1 - 2j)).real), Jvp(lambda p, t: t[0] * (1 + 2j))]
)
def test_own_derivatives_of_complex_results(rule):
    f, x, w = numpy2torch(lambda x: x * (1 + 2j), gradient=rule), leaf(2), tensor(2) - 0.3j
    torch.testing.assert_close(torch.autograd.grad(f(x), x, w)[0], (w * (1 - 2j)).real)
    z = x.detach()
    torch.testing.assert_close(jvp(f, (z,), (w.real,))[1], w.real * (1 + 2j))


def test_trees_keywords_statics_and_integers():
    Pair = collections.namedtuple("Pair", "a b")
    seen = []

    def fn(p, n, mode, *, scale=2.0):
        seen.append((type(n), n.dtype, mode, type(scale)))
        return {"y": np.sin(p["w"].a) * p["w"].b[0] * n * scale, "count": 3, "parts": (n, [n])}

    f, a, b = numpy2torch(fn, gradient=FINE, static_argnames="mode"), leaf(2), leaf()
    result = f({"w": Pair(a, [b])}, torch.tensor([2, 5]), mode="fast", scale=1.5)
    assert seen == [(np.ndarray, np.dtype("int64"), "fast", float)]
    assert list(result) == ["y", "count", "parts"]
    assert result["count"] == 3
    assert result["parts"][1][0].tolist() == [2, 5]
    result["y"].sum().backward()
    n, z = torch.tensor([2, 5]), a.detach()
    torch.testing.assert_close(a.grad, z.cos() * b.detach() * n * 1.5)
    torch.testing.assert_close(b.grad, (z.sin() * n * 1.5).sum())


def test_rules_by_name():
    @dataclasses.dataclass
    class Box:
        u: object

    wrong = Vjp(lambda p, c, y: (None, {"w": [7.0 * c], "v": 9.0 * c}, None))
    rules = {"x": FINE, "p": wrong, "p['w']": FINE, "q": FINE}
    f = numpy2torch(lambda x, p, q: x * p["w"][0] * p["v"] * q.u, gradient=rules)
    x, w, v, u = leaf(), leaf(), leaf(), leaf()
    f(x, {"w": [w], "v": v}, Box(u)).backward()
    torch.testing.assert_close(x.grad, (w * v * u).detach())
    torch.testing.assert_close(w.grad, (x * v * u).detach())
    torch.testing.assert_close(u.grad, (x * v * w).detach())
    assert v.grad == 9.0


@pytest.mark.parametrize("vectorized", [False, True])
def test_numbers_and_arrays_without_axes(vectorized):
    def fn(x):
        return 2.0 * x if vectorized else float(x) * 2, np.float32(0.5) * x

    f = numpy2torch(fn, gradient=FINE, vectorized=vectorized)
    x = leaf(dtype=torch.float32)
    y, z = f(x)
    assert (y.shape, y.dtype, z.dtype) == ((), torch.float32, torch.float32)
    torch.testing.assert_close((y, z), (2 * x, 0.5 * x))
    (y + z).backward()
    assert abs(x.grad - 2.5) < 1e-4


def vectorized_vjp(primals, cotangents, outputs):
    def pullback(x, w, a, b):
        return vjp(smooth_native, x, w)[1]((a, b))

    np.testing.assert_allclose(smooth(*primals)[0], outputs[0])
    return tuple(g.numpy() for g in vmap(pullback)(*as_tensors(primals), *as_tensors(cotangents)))


def vectorized_jvp(primals, tangents):
    def push(x, w, a, b):
        return jvp(smooth_native, (x, w), (a, b))[1]

    return tuple(t.numpy() for t in vmap(push)(*as_tensors(primals), *as_tensors(tangents)))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_vectorized_derivatives_of_the_user(transform, batch_size):
    rules = {"x": Vjp(vectorized_vjp, then=FINE), "w": Jvp(vectorized_jvp, then=FINE)}
    assert_like_native(TRANSFORMS[transform], rules, 1e-4, vectorized=True, batch_size=batch_size)
