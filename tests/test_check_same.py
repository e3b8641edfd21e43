"""`bridge.testing.check_same`: what is the same passes, and what differs is named."""

import importlib
import importlib.util

import numpy as np
import pytest

import bridge
from bridge.testing import check_same

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(0.3, 1.5, (3, 2)).astype("float32")
W = RANDOM.normal(size=(2, 4)).astype("float32")
Z = (RANDOM.normal(size=(2, 3)) + 1j * RANDOM.normal(size=(2, 3))).astype("complex64")
NAMESPACES = {"torch": "torch", "jax": "jax.numpy", "mlx": "mlx.core"}
HERE = [n for n, module in NAMESPACES.items() if importlib.util.find_spec(module.split(".")[0])]
DERIVATIVES = {
    *("values", "vmap", "vjp", "jvp", "vmap of vjp", "vmap of jvp"),
    *("vjp of vjp", "jvp of vjp", "vjp of jvp"),
}

pytestmark = pytest.mark.skipif(len(HERE) < 2, reason="needs two frameworks")


def in_each(function):
    """`function(xp, *args)` in each framework that is installed, by keyword."""
    spaces = {name: importlib.import_module(NAMESPACES[name]) for name in HERE}
    return {name: lambda *args, xp=xp: function(xp, *args) for name, xp in spaces.items()}


def square_in_torch(torch, **rules):
    """`x * x` with a gradient of its own; `rules` replace its parts."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, cotangent):
            return 2 * ctx.saved_tensors[0].conj() * cotangent

        @staticmethod
        def jvp(ctx, tangent):
            return 2 * ctx.saved_tensors[0] * tangent

        @staticmethod
        def vmap(info, in_dims, x):
            return Square.apply(x), in_dims[0]

    for name, rule in rules.items():
        setattr(Square, name, staticmethod(rule))
    return Square.apply


def test_the_same_op_agrees_in_every_derivative():
    report = check_same(**in_each(lambda xp, x, w: xp.tanh(x @ w)), args=(X, W))
    assert set(report.errors) == DERIVATIVES
    assert max(report.errors.values()) < 1e-5
    assert report.implementations == tuple(HERE)
    assert report.remarks == ()
    assert str(report).startswith(f"{', '.join(HERE[:-1])} and {HERE[-1]} agree (rtol=6.4e-06")
    assert "rtol=0.00035, atol=0.00035 times the largest element for derivatives" in str(report)


def test_functions_are_found_by_what_they_return(torch, jax):
    report = check_same(torch.tanh, jax.numpy.tanh, args=(X,))
    assert report.implementations == ("torch", "jax")
    report = check_same(jax.numpy.tanh, torch.nn.Tanh(), args=(X,), order=0)
    assert report.implementations == ("jax", "torch")
    report = check_same(torch.square, square_in_torch(torch), args=(X,), order=0)
    assert report.implementations == ("square of torch", "Square of torch")


def test_bridged_function_is_one_of_its_target(torch, jax):
    bridged = bridge.jax2torch(jax.numpy.tanh)
    assert check_same(jax.numpy.tanh, bridged, args=(X,)).implementations == ("jax", "torch")


def test_function_of_any_arrays_has_to_be_named():
    text = r"a function of \w+ and of \w+.*check_same\(torch=double, \.\.\.\)"

    def double(x):
        return 2 * x

    for name in HERE:
        importlib.import_module(NAMESPACES[name])
    with pytest.raises(bridge.ArgumentError, match=text):
        check_same(double, double, args=(X,))
    check_same(**dict.fromkeys(HERE, double), args=(X,))


def test_function_of_no_arrays_says_what_each_framework_raised():
    def broken(x):
        raise TypeError("no such thing")

    with pytest.raises(bridge.ArgumentError, match=r"broken returned .*no such thing"):
        check_same(broken, broken, args=(X,))


@pytest.mark.parametrize("owner", HERE)
def test_trees_numbers_and_arrays_of_any_framework(owner):
    x = bridge.testing.backend(owner).array(X)
    if owner == "torch":
        x.requires_grad_()

    def energy(xp, state, scale, index, power):
        return {"y": xp.exp(state["x"][index]) * scale, "list": [state["w"] ** power]}

    args = ({"x": x, "w": W}, 0.5, np.array([2, 0]), 3)
    report = check_same(**in_each(energy), args=args)
    assert set(report.errors) == DERIVATIVES


def test_wrong_element_is_named_with_both_values(torch, jax):
    def wrong(ctx, cotangent):
        gradient = 2 * ctx.saved_tensors[0] * cotangent
        gradient[1, 0] *= 3
        return gradient

    square = square_in_torch(torch, backward=wrong)

    def energy(x, weights):
        return {"y": square(weights["w"]) * x.sum()}

    def truth(x, weights):
        return {"y": jax.numpy.square(weights["w"]) * x.sum()}

    with pytest.raises(AssertionError) as caught:
        check_same(energy, jax=truth, args=(X, {"w": X}), transforms=("vjp",))
    first, line, *_ = str(caught.value).split("\n")
    assert first in ("vjp: torch differs from jax.", "vjp: jax differs from torch.")
    assert "the gradient by argument weights['w'] at [1, 0] is" in line
    values = [float(word) for word in line.replace(",", "").split() if _is_number(word)]
    ratio = max(values[:2], key=abs) / min(values[:2], key=abs)
    assert ratio == pytest.approx(3, rel=1e-4)
    assert "of 1 among 6 elements" in line


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def test_the_odd_one_out_is_named(torch, jax):
    pytest.importorskip("mlx.core")
    ops = in_each(lambda xp, x: xp.sin(x))
    ops["jax"] = lambda x: jax.numpy.sin(x) * 1.01
    with pytest.raises(AssertionError, match=r"^values: jax differs from torch and mlx, which agr"):
        check_same(**ops, args=(X,))


def test_wrong_conjugation_is_found(torch, jax):
    right = square_in_torch(torch)
    check_same(right, jax.numpy.square, args=(Z,))
    wrong = square_in_torch(torch, backward=lambda ctx, c: 2 * ctx.saved_tensors[0] * c)
    with pytest.raises(AssertionError, match=r"vjp: .*\n.*the gradient by argument"):
        check_same(wrong, jax.numpy.square, args=(Z,))
    turned = lambda z: torch.func.vjp(torch.sin, z)[1](torch.ones_like(z))[0]
    straight = lambda z: jax.vjp(jax.numpy.sin, z)[1](jax.numpy.ones_like(z))[0]
    with pytest.raises(AssertionError, match=r"values: .*\n.* Conjugated it would agree"):
        check_same(turned, straight, args=(Z,))


def test_complex_gradients_of_the_frameworks_agree():
    def mixed(xp, z, x):
        return xp.sin(z) * x, xp.real(z * z), z * z / (2 + z)

    assert set(check_same(**in_each(mixed), args=(Z, X.T)).errors) == DERIVATIVES


def test_op_that_is_wrong_at_second_order_only(torch, jax):
    """The gradient is right, and constant to torch."""
    backward = lambda ctx, c: 2 * ctx.saved_tensors[0].detach() * c
    square = square_in_torch(torch, backward=backward)
    check_same(square, jax.numpy.square, args=(X,), order=1)
    with pytest.raises(AssertionError) as caught:
        check_same(square, jax.numpy.square, args=(X,))
    assert str(caught.value).startswith("vjp of vjp: ")
    assert "the gradient by argument" in str(caught.value)
    assert "the gradient by the cotangent of result" not in str(caught.value)


def test_wrong_tangents_and_wrong_batches_are_found(torch, jax):
    wrong = square_in_torch(torch, jvp=lambda ctx, t: ctx.saved_tensors[0] * t)
    with pytest.raises(AssertionError, match=r"^jvp: .*\n.*the tangent of result at"):
        check_same(wrong, jax.numpy.square, args=(X,))
    wrong = square_in_torch(torch, vmap=lambda info, in_dims, x: ((x * x).flip(0), 0))
    with pytest.raises(AssertionError, match=r"^vmap: torch differs from jax and torch called for"):
        check_same(wrong, jax.numpy.square, args=(X,))


def test_forward_mode_over_forward_mode_is_wrong_in_torch(torch):
    """So it is not compared: a tangent is a constant to another forward mode."""
    square = square_in_torch(torch)
    x, ones = torch.tensor([3.0]), torch.ones(1)
    tangent = lambda x: torch.func.jvp(square, (x,), (ones,))[1]
    assert torch.func.jvp(tangent, (x,), (ones,))[1] == 0  # and 2 would be right


def test_batches_that_both_have_wrong_are_found(torch):
    """They agree with one another, and not with calls for each example."""
    wrong = square_in_torch(torch, vmap=lambda info, in_dims, x: ((x * x).flip(0), 0))
    with pytest.raises(AssertionError, match=r"^vmap: Square of torch .* called for each example"):
        check_same(wrong, wrong, args=(X,))


def test_lacks_are_lines_unless_required(torch, jax):
    class Old(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, cotangent):
            return 2 * ctx.saved_tensors[0] * cotangent

    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, cotangent: (2 * x * cotangent,))
    report = check_same(Old.apply, square, args=(X,))
    assert {"values", "vjp", "vjp of vjp"} <= set(report.errors)
    assert "jvp" not in report.errors
    for line in ("torch has no vmap: ", "torch has no jvp: ", "jax has no jvp: can't apply"):
        assert line in str(report)
    with pytest.raises(AssertionError, match=r"torch has no jvp: .*\nrequired=\('jvp',\) asks"):
        check_same(Old.apply, square, args=(X,), required=("jvp",))
    once = staticmethod(torch.autograd.function.once_differentiable(Old.backward))
    once_only = type("Once", (Old,), {"backward": once})
    with pytest.raises(AssertionError, match=r"^vjp of vjp: "):  # torch says 0
        check_same(once_only.apply, square, args=(X,), transforms=("vjp",))


def test_backward_pass_with_numpy_in_it_is_differentiated_once(torch, jax):
    class Host(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, cotangent):
            return torch.from_numpy(2 * ctx.saved_tensors[0].numpy() * cotangent.numpy())

    report = check_same(Host.apply, jax.numpy.square, args=(X,), transforms=("vjp",), order=1)
    assert set(report.errors) == {"values", "vjp"}


def test_bug_in_an_implementation_is_raised_with_its_name(torch, jax):
    def backward(ctx, cotangent):
        raise ValueError("a bug")

    square = square_in_torch(torch, backward=backward)
    with pytest.raises(ValueError, match="a bug") as caught:
        check_same(square, jax.numpy.square, args=(X,))
    assert caught.value.__notes__[-1] == "It was raised by torch, for vjp."


def test_numpy_is_compared_with_by_values():
    ops = in_each(lambda xp, x: xp.exp(x).sum())
    report = check_same(**ops, numpy=lambda x: np.exp(x).sum(), args=(X,))
    assert set(report.errors) == DERIVATIVES
    with pytest.raises(AssertionError, match=r"^values: numpy differs"):
        check_same(**ops, numpy=lambda x: np.exp(x).sum() + 1, args=(X,))


def test_tolerance_follows_from_the_lowest_precision(torch, jax):
    x = X.astype("float64")
    slightly = lambda x: torch.sin(x) * (1 + 1e-6)
    with pytest.raises(AssertionError, match=r"(?s)^values.*rtol=1\.8e-12.*rtol=1\.5e-08"):
        check_same(slightly, jax.numpy.sin, args=(x,))
    check_same(slightly, jax.numpy.sin, args=(X,))
    check_same(slightly, jax.numpy.sin, args=(x,), rtol=1e-5)
    assert not jax.config.jax_enable_x64


def test_mlx_in_double_precision_is_as_accurate_as_it_is(torch):
    mx = pytest.importorskip("mlx.core")
    check_same(torch.sin, mx.sin, args=(X.astype("float64"),))


def test_different_results_are_told(torch, jax):
    jnp = jax.numpy
    with pytest.raises(AssertionError, match=r"torch has result\['y'\], and jax has result\['z'\]"):
        check_same(lambda x: {"y": torch.sin(x)}, lambda x: {"z": jnp.sin(x)}, args=(X,))
    with pytest.raises(AssertionError, match=r"has shape \[\d\] in \w+, and \[\d\] in"):
        check_same(lambda x: torch.sum(x, 0), lambda x: jnp.sum(x, 1), args=(X,))
    with pytest.raises(AssertionError, match=r"result holds \w+ \w+ in \w+, and \w+ \w+ in"):
        check_same(lambda x: torch.sum(x, 0) > 0, lambda x: jnp.sum(x, 0), args=(X,))
    with pytest.raises(bridge.ArgumentError, match=r"torch, returned a builtins\.str, which is no"):
        check_same(torch=lambda x: "text", jax=jnp.sin, args=(X,))


def test_integers_are_compared_exactly(torch, jax):
    large = np.array([2**30, 5])
    check_same(torch=lambda n: n + 1, jax=lambda n: n + 1, args=(large,))
    with pytest.raises(AssertionError, match=r"result at \[0\] is 10737418\d\d in \w+"):
        check_same(torch=lambda n: n + 1, jax=lambda n: n + 2, args=(large,))


def test_nan_and_infinity_are_compared(torch, jax):
    x = np.array([-1.0, 0.0, 1.0], dtype="float32")
    check_same(torch.log, jax.numpy.log, args=(x,), order=0, transforms=())
    with pytest.raises(AssertionError, match=r"at \[0\] is (nan|0) in"):
        check_same(
            torch.log, lambda x: jax.numpy.nan_to_num(jax.numpy.log(x), nan=0), args=(x,), order=0
        )


def test_options_that_are_none(torch, jax):
    both = (torch.sin, jax.numpy.sin)
    with pytest.raises(bridge.OptionError, match=r"transforms=\('grad',\)"):
        check_same(*both, args=(X,), transforms=("grad",))
    with pytest.raises(bridge.OptionError, match=r"required=.*does not"):
        check_same(*both, args=(X,), transforms=("vjp",), required=("jvp",))
    with pytest.raises(bridge.UnknownFrameworkError, match="tensorflow"):
        check_same(*both, args=(X,), tensorflow=abs)
    with pytest.raises(bridge.ArgumentError, match="two implementations or more, and got 1"):
        check_same(torch.sin, args=(X,))


def test_another_seed_draws_other_directions(torch, jax):
    """A wrong gradient that one direction does not see."""
    seen = []

    def backward(ctx, cotangent):
        seen.append(cotangent.clone())
        return 2 * ctx.saved_tensors[0] * cotangent

    square = square_in_torch(torch, backward=backward)
    for seed in (0, 0, 1):
        check_same(square, jax.numpy.square, args=(X,), order=1, transforms=("vjp",), seed=seed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert len(set(seen[0].abs().flatten().tolist())) > 1


def test_wrong_gradient_of_a_small_result_beside_a_large_one(torch, jax):
    def stopped(x):
        return 1e6 * x, jax.numpy.sin(jax.lax.stop_gradient(x))

    with pytest.raises(AssertionError, match=r"the gradient of result\[1\] by argument x"):
        check_same(lambda x: (1e6 * x, torch.sin(x)), stopped, args=(X,), transforms=("vjp",))


def test_wrong_second_order_of_a_small_result_beside_a_large_one(torch, jax):
    constant = lambda ctx, c: 2 * ctx.saved_tensors[0].detach() * c
    square = square_in_torch(torch, backward=constant)
    ops = {"torch": lambda x: (1e6 * x**3, square(x)), "jax": lambda x: (1e6 * x**3, x * x)}
    with pytest.raises(AssertionError, match="vjp of vjp: "):
        check_same(**ops, args=(X,), transforms=("vjp",))


def test_scalars_of_numpy_are_arrays(torch, jax):
    report = check_same(torch.sin, jax.numpy.sin, args=(np.float32(0.3),), order=1)
    assert "vjp" in report.errors
    ops = {"torch": lambda x, s: x * s, "jax": lambda x, s: x * jax.lax.stop_gradient(s)}
    with pytest.raises(AssertionError, match="the gradient by argument s"):
        check_same(**ops, args=(X, X.sum()), order=1)


def test_float64_that_is_computed_in_float32_is_found_by_its_value(torch, jax):
    x = X.astype("float64")
    with pytest.raises(AssertionError, match=r"^values: "):
        check_same(lambda x: torch.sin(x.float()).double(), jax.numpy.sin, args=(x,))


def test_dtypes_of_results_are_compared(torch, jax):
    jnp = jax.numpy
    both = {"args": (X,), "transforms": ()}
    for wrong in (lambda x: torch.sin(x).half(), lambda x: torch.sin(x.bfloat16())):
        with pytest.raises(AssertionError, match=r"^result is b?float16 in torch, float32 in jax"):
            check_same(wrong, jnp.sin, **both)
    with pytest.raises(AssertionError, match="result is uint8 in torch, int32 in jax"):
        check_same(lambda x: (x > 1).byte(), lambda x: (x > 1).astype("int32"), **both)
    report = check_same(torch.argmax, jnp.argmax, **both)
    assert "result is int64 in torch, int32 in jax" in report.remarks
    report = check_same(lambda x: torch.sin(x).double(), jnp.sin, **both)  # JAX has none here
    assert "result is float64 in torch, float32 in jax" in report.remarks
    check_same(torch.sin, jnp.sin, numpy=lambda x: np.sin(x.astype("float64")), **both)
    with pytest.raises(AssertionError, match="float16 in numpy"):
        check_same(torch.sin, jnp.sin, numpy=lambda x: np.sin(x).astype("float16"), **both)
    check_same(torch=lambda x: x.sum() * 0 + 3, jax=lambda x: 3.0, **both)


def test_result_of_low_precision_leaves_the_tolerance_of_others(torch, jax):
    half = lambda x: (x.astype("float16"), jax.numpy.sin(x) * (1 + 1e-4))
    with pytest.raises(AssertionError, match=r"values: .*\n.*result\[1\] at"):
        check_same(lambda x: (x.half(), torch.sin(x)), half, args=(X,), order=0)


def test_rule_that_raises_is_no_lack(torch, jax):
    def unfinished(*args):
        raise NotImplementedError("to be written")

    in_torch = square_in_torch(torch, backward=unfinished)
    with pytest.raises(NotImplementedError, match="to be written"):
        check_same(in_torch, jax.numpy.square, args=(X,), transforms=("vjp",))
    in_jax = jax.custom_vjp(lambda x: x * x)
    in_jax.defvjp(lambda x: (x * x, x), unfinished)
    with pytest.raises(NotImplementedError, match="to be written"):
        check_same(torch.square, in_jax, args=(X,), transforms=("vjp",))


def test_op_without_derivatives_is_refused_unless_values_are_asked_for(torch, jax):
    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    with pytest.raises(AssertionError, match="torch has no derivative that could be compared"):
        check_same(Plain.apply, jax.numpy.square, args=(X,))
    check_same(Plain.apply, jax.numpy.square, args=(X,), order=0)


def test_op_that_changes_its_argument_in_place(torch, jax):
    given = torch.from_numpy(X.copy())
    check_same(torch=lambda x: x.mul_(2).sin(), jax=lambda x: jax.numpy.sin(2 * x), args=(given,))
    assert torch.equal(given, torch.from_numpy(X))
