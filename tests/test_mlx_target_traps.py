"""What MLX does behind the back of a custom function, and what calls from MLX do about it.

Each test first shows the trap in MLX alone: it fails when the trap is gone, and with it the reason
of a line of ours.
"""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

from bridge import NoValuesError

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
from bridge import torch2mlx  # noqa: E402
from tests.mlx_transforms import WHERE, custom, inner  # noqa: E402

X = mx.array([0.3, -1.25, 0.7])


@pytest.mark.parametrize("where", WHERE)
def test_transformations_are_known(where):
    from bridge._arrays.mlx import transforming

    seen = []

    def note(x):
        seen.append(transforming())
        return x * 2

    transformations = [
        lambda: mx.grad(lambda x: note(x).sum())(X),
        lambda: mx.vjp(lambda x: [note(x)], [X], [X]),
        lambda: mx.jvp(lambda x: [note(x)], [X], [X]),
        lambda: mx.vmap(note)(X),
        lambda: inner(inner(note))(X),
    ]
    if where == "here":  # threads that compile may end the process
        transformations.append(lambda: mx.compile(note)(X))

    def run():
        before = transforming()
        for transform in transformations:
            transform()
        return before, transforming()

    mx.eval(X)
    assert WHERE[where](run) == (False, False)
    assert seen == [True] * len(transformations)


def test_unused_outputs_have_cotangents_of_zero():
    seen = []

    def note(_, cotangents, __):
        seen.extend(cotangents)
        return cotangents[1]

    mx.grad(lambda x: custom(lambda x: (x, 2 * x), vjp=note)(x)[1].sum())(X)
    assert not np.array(seen[0]).any()
    two = torch2mlx(lambda x: (torch.sqrt(x), 2 * x))  # the root has no derivative at 0
    found = mx.grad(lambda x: two(x)[1].sum())(mx.array([0.0, 1.0]))
    assert found.tolist() == [2, 2]
    curved = mx.grad(lambda x: inner(lambda x: two(x)[1] ** 2)(x).sum())(mx.array([0.0, 1.0]))
    assert curved.tolist() == [8, 8]

    def left_over(x):
        first, second = two(x)
        kept.append(second)
        return [first]

    def of_the_other(x):
        mx.vjp(left_over, [x], [mx.ones_like(x)])
        return kept[-1].sum()

    kept = []
    assert mx.grad(of_the_other)(mx.array([0.0, 1.0])).tolist() == [2, 2]


def test_rules_are_not_told_which_arguments_want_gradients():
    seen = []

    def note(primals, cotangent, _):
        seen.append(len(primals))
        return cotangent, cotangent

    product = custom(lambda x, y: x * y, vjp=note)
    mx.grad(lambda x: product(x, X).sum())(X)
    assert seen == [2]

    class Refuses(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(y)
            return x * y

        @staticmethod
        def backward(ctx, cotangent):
            if ctx.needs_input_grad[1]:
                raise RuntimeError("y has no gradient")
            return cotangent * ctx.saved_tensors[0], None

    refusing = torch2mlx(Refuses.apply, capture="never")
    gradient = mx.grad(lambda x, y: refusing(x, y).sum())
    np.testing.assert_array_equal(gradient(X, 3 * X), 3 * X)
    with pytest.raises(RuntimeError, match="y has no gradient"):
        mx.grad(lambda x, y: refusing(x, y).sum(), argnums=(0, 1))(X, 3 * X)


def test_what_a_rule_returns_is_not_checked():
    wrong = custom(lambda x: x * 2, vjp=lambda *_: mx.array([1, 2]))
    assert inner(wrong)(X).shape != X.shape

    from bridge._core.op import Op, Rules
    from bridge._core.spec import ArraySpec
    from bridge._targets.mlx import TARGET

    class Runner:
        @staticmethod
        def execute(op, xs):
            return op.call(*xs)

    said = ArraySpec((3,), "float32")
    gradient = Op(
        name="f.vjp",
        framework="torch",
        call=lambda *_: (mx.zeros((2,)),),
        output_specs=lambda *_: (said,),
    )
    op = Op(
        name="f",
        framework="torch",
        call=lambda x: (mx.array(x) * 2,),
        output_specs=lambda *_: (said,),
        rules=Rules(vjp=lambda wanted, given: gradient),
    )
    f = TARGET.make_native(op, Runner, None)
    with pytest.raises(TypeError, match=r"f.vjp returned \(float32\[2\]\) .*but \(float32\[3\]\)"):
        inner(lambda x: f(x)[0])(X)


def test_one_argument_arrives_without_its_tuple():
    seen = []

    def note(primals, cotangent, _):
        seen.append(type(primals))
        return cotangent, cotangent

    inner(custom(lambda x: x * 2, vjp=note))(X)
    inner(lambda x: custom(lambda x, y: x * y, vjp=note)(x, X))(X)
    assert seen == [mx.array, tuple]


def test_captured_arrays_have_no_gradient():
    product = lambda x: custom(lambda y: x * y, vjp=lambda _, cotangent, __: cotangent)(X)
    assert inner(product)(X).tolist() == [0, 0, 0]
    # Arguments of a bridged function are all passed, wherever they stand.
    bridged = torch2mlx(lambda x, *, more: x * more["y"][0])
    found = inner(lambda y: bridged(X, more={"y": [y]}))(2 * X)
    np.testing.assert_allclose(found, X)


def test_arrays_passed_by_name_have_the_cotangent_for_a_gradient():
    product = custom(lambda x, *, y: x * y, vjp=lambda x, c, _, *, y: c * y)
    found = mx.grad(lambda y: product(X, y=y).sum())(2 * X)
    assert np.array(found).tolist() == [1, 1, 1]
    bridged = torch2mlx(lambda x, *, y: x * y)
    np.testing.assert_allclose(mx.grad(lambda y: bridged(X, y=y).sum())(2 * X), X)


def test_a_function_without_results_ends_the_process():
    code = """
import mlx.core as mx
function = mx.custom_function(lambda x: ())
function.vjp(lambda *_: ())
print("before", flush=True)
mx.vjp(lambda x: list(function(x)) + [x], [mx.array(1.0)], [mx.array(1.0)])
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout == "before\n"
    assert ended.returncode < 0
    nothing = torch2mlx(lambda x: {"nothing": None})
    assert mx.grad(lambda x: (nothing(x), x.sum())[1])(X).tolist() == [1, 1, 1]
    assert nothing(X) == {"nothing": None}


def test_integers_have_gradients_in_mlx():
    counts = mx.array([1, 2, 3])
    assert inner(lambda n: X * n)(counts).tolist() == [0, -1, 0]  # cut off
    product = torch2mlx(lambda x, n: x * n)
    assert inner(lambda n: product(X, n))(counts).tolist() == [0, 0, 0]
    whole = inner(lambda x: product(X, (2 * x).astype(mx.int32)))(X)
    assert whole.tolist() == [0, 0, 0]


def test_tangents_may_have_another_dtype():
    half, single = X.astype(mx.float16), mx.ones((3,))
    assert mx.jvp(lambda x: [mx.sin(x)], [half], [single])[1][0].dtype == mx.float32
    found = mx.jvp(lambda x: [torch2mlx(torch.sin)(x)], [half], [single])[1][0]
    assert found.dtype == mx.float16
    np.testing.assert_allclose(found, np.cos(np.array(half)), rtol=1e-3)


def test_zeros_as_placeholders_are_results_of_mx_compile():
    def forward(x):
        try:
            mx.eval(x)
        except ValueError:
            return mx.zeros(x.shape)
        return x * 2

    doubled = custom(forward, vmap=lambda x, axis: (x * 2, axis))
    assert mx.vmap(doubled)(X).tolist() == (X * 2).tolist()
    assert mx.compile(doubled)(X).tolist() == [0, 0, 0]


RECORDING = {
    "compile": lambda f: mx.compile(f)(X),
    "compile for any shape": lambda f: mx.compile(f, shapeless=True)(X),
    "compile grad": lambda f: mx.compile(inner(f))(X),
    "compile jvp": lambda f: mx.compile(lambda x: mx.jvp(lambda x: [f(x)], [x], [x])[1])(X),
    "compile vmap": lambda f: mx.compile(mx.vmap(f))(X),
    "compile vmap grad": lambda f: mx.compile(mx.vmap(mx.grad(f)))(X),
    "compile checkpoint": lambda f: mx.compile(inner(mx.checkpoint(f)))(X),
    "export_function": lambda f: mx.export_function("/dev/null", f, X),
}


@pytest.mark.parametrize("how", RECORDING)
def test_mx_compile_is_refused_by_name(how):
    def cube(x):
        return x**3

    text = r"cube.* is not computed by MLX.*mx\.compile.*Compile the functions around the call"
    with pytest.raises(NoValuesError, match=text):
        RECORDING[how](torch2mlx(cube))


def test_mx_compile_is_refused_by_name_after_it_was_disabled():
    """In a fresh process, which learns at its first batch what the stack looks like."""
    code = """if True:
        import mlx.core as mx, torch, bridge
        cube = bridge.torch2mlx(lambda x: x**3)
        mx.disable_compile()
        mx.eval(mx.vmap(cube)(mx.ones(3)))
        mx.enable_compile()
        try:
            mx.compile(cube)(mx.ones(3))
        except bridge.NoValuesError:
            print("refused")
    """
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "refused\n"


def test_mx_compile_takes_what_does_not_depend_on_its_arguments():
    cube = torch2mlx(lambda x: x**3)
    constant = mx.array([1.5, -0.5, 2.0])
    found = mx.compile(lambda x: x + mx.vmap(cube)(constant))(X)
    np.testing.assert_allclose(found, X + constant**3, rtol=1e-6)
    around = mx.compile(lambda y: y + 1)(cube(mx.compile(lambda x: x * 2)(X)))
    np.testing.assert_allclose(around, (2 * X) ** 3 + 1, rtol=1e-6)


def test_placeholders_raise_where_nobody_tells_who_asks(monkeypatch):
    from bridge._targets.mlx import call

    monkeypatch.setattr(call, "is_compiling", lambda: False)
    cube = torch2mlx(lambda x: x**3)
    results = mx.compile(inner(cube))(X)
    with pytest.raises(RuntimeError, match="compil"):
        mx.eval(results)
    assert np.allclose(mx.vmap(cube)(X), X**3)


def test_graphs_hold_rules_where_nobody_sees_them():
    class Held:
        pass

    def cycle():
        held, kept = Held(), []
        result = custom(lambda x: x * 2, vjp=lambda *_: (held, kept)[0])(X)
        kept.append(result)
        return weakref.ref(held)

    lost = cycle()
    gc.collect()
    assert lost() is not None  # forever

    fn = lambda x: torch.sin(x)
    freed = weakref.ref(fn)
    bridged = torch2mlx(fn)
    mx.eval(inner(inner(bridged))(X), mx.vmap(bridged)(X))
    left = mx.vjp(lambda x: [bridged(x)], [X], [X])  # a graph that is never evaluated
    del fn, left
    bridged = None
    for _ in range(2):  # the first time frees what MLX holds, where Python cannot look
        gc.collect()
    assert freed() is None
