"""Ops of torch written by hand, independent of bridge's own sources."""

import dataclasses
import functools
import threading
from collections import Counter

import jax
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bridge import _registry
from bridge._calls import executor
from bridge._core.op import ForwardBackward, Op, Rules, Traits
from bridge._core.pytree import scatter
from bridge._core.spec import ArraySpec

# torch keeps the level of forward mode for the whole process: on several threads at once, one finds
# it missing ("no level exists").
FORWARD_MODE = threading.RLock()


def spec(x):
    return ArraySpec(tuple(x.shape), str(x.dtype).removeprefix("torch."))


def smooth(x):
    return x.is_floating_point() or x.is_complex()


class Handmade:
    """A function of flat tensors that returns a tuple, and its rules by `torch.func`.

    `calls` counts what runs, by name. With `keep`, the first derivative keeps residuals: the
    halves of its floating-point primals, so that a backward that gets others is wrong.
    """

    def __init__(self, fn, name, primals, *, keep=False, reach=None, calls=None, specs=None):
        self.fn, self.name, self.primals, self.keep = fn, name, tuple(primals), keep
        self.calls = Counter() if calls is None else calls
        self.reach, self._specs = reach, specs

    def op(self):
        return Op(
            name=self.name,
            framework="torch",
            call=self.call,
            output_specs=self.specs,
            rules=Rules(
                vjp=self.vjp,
                jvp=self.jvp,
                vmap=self.vmap,
                forward_backward=self.split if self.keep else None,
            ),
            traits=Traits(dependencies=(lambda: self.reach) if self.reach else None),
        )

    def call(self, *xs):
        self.calls[self.name] += 1
        with torch.no_grad():
            return self.fn(*xs)

    def specs(self, *_):
        if self._specs is None:
            with FakeTensorMode(allow_non_fake_inputs=True):
                fakes = [torch.empty(s.shape, dtype=getattr(torch, s.dtype)) for s in self.primals]
                self._specs = tuple(map(spec, self.fn(*fakes)))
        return self._specs

    def derived(self, rule, fn, primals):
        return Handmade(fn, f"{self.name}.{rule}", primals, keep=self.keep, calls=self.calls)

    def pull(self, xs, wanted, given, cotangents):
        def of(*free):
            outputs = self.fn(*scatter(free, wanted, xs))
            return tuple(outputs[i] for i in given)

        return torch.func.vjp(of, *(xs[i] for i in wanted))[1](tuple(cotangents))

    def vjp(self, wanted, given):
        count = len(self.primals)
        fn = lambda *args: self.pull(args[:count], wanted, given, args[count:])
        cotangents = [self.specs()[i] for i in given]
        return self.derived("vjp", fn, (*self.primals, *cotangents)).op()

    def jvp(self, given):
        count = len(self.primals)

        def fn(*args):
            xs, tangents = args[:count], args[count:]
            of = lambda *free: tuple(y for y in self.fn(*scatter(free, given, xs)) if smooth(y))
            with FORWARD_MODE:
                return torch.func.jvp(of, tuple(xs[i] for i in given), tuple(tangents))[1]

        return self.derived("jvp", fn, (*self.primals, *(self.primals[i] for i in given))).op()

    def vmap(self, axes, size):
        grown = [_grown(s, axis, size) for s, axis in zip(self.primals, axes, strict=True)]
        return self.derived("vmap", _mapped(self.fn, axes, size), grown).op()

    def split(self, wanted, given):
        """Keeps integers and the first output as they are, and half of each other primal."""
        count, outputs = len(self.primals), len(self.specs())
        whole = tuple(i for i, s in enumerate(self.primals) if not s.differentiable)
        halved = tuple(i for i in range(count) if i not in whole)

        def forward(*xs):
            return (*self.fn(*xs), *(xs[i] / 2 for i in halved))

        first = self.derived("forward", forward, self.primals)
        kept = (*(self.primals[i] for i in whole), self.specs()[0])
        row = (*kept, *(self.primals[i] for i in halved), *(self.specs()[i] for i in given))

        @functools.cache
        def backward(needed):
            def fn(*args):
                xs = scatter(args[: len(whole)], whole, [None] * count)
                args = args[len(whole) + 1 :]
                xs = scatter([2 * x for x in args[: len(halved)]], halved, xs)
                return self.pull(xs, needed, given, args[len(halved) :])

            return self.derived("backward", fn, row).op()

        return ForwardBackward(
            strategy="save",
            forward=first.op(),
            backward=backward,
            output_count=outputs,
            saved_primals=whole,
            saved_outputs=(0,),
        )


def _mapped(fn, axes, size):
    if any(axis is not None for axis in axes):
        return torch.func.vmap(fn, in_dims=tuple(axes))
    return lambda *xs: tuple(torch.stack([y] * size) for y in fn(*xs))


def _grown(spec, axis, size):
    if axis is None:
        return spec
    shape = list(spec.shape)
    shape.insert(axis, size)
    return dataclasses.replace(spec, shape=tuple(shape))


def exposed(op):
    """An Op of torch as a function of JAX arrays, which returns a tuple."""
    runner = executor.make_executor("torch", "jax", device="cpu", compute_device="cpu")
    return _registry.target("jax").make_native(op, runner, None)


def into_jax(fn, *, name=None, keep=False, calls=None, reach=None):
    """A function of tensors as a function of JAX arrays; a single result comes bare."""
    bare = {}

    def flat(*xs):
        outputs = fn(*xs)
        bare["is"] = not isinstance(outputs, tuple)
        return (outputs,) if bare["is"] else outputs

    @functools.cache
    def native(primals):
        made = Handmade(flat, name or fn.__name__, primals, keep=keep, calls=calls, reach=reach)
        return exposed(made.op())

    def call(*xs):
        arrays = [jax.numpy.asarray(x) for x in xs]
        specs = tuple(ArraySpec(tuple(x.shape), str(x.dtype)) for x in arrays)
        outputs = native(specs)(*arrays)
        return outputs[0] if bare["is"] else outputs

    return call
