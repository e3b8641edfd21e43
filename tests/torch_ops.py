"""Ops of torch functions, and what they are compared with."""

import torch

from bridge import _registry
from bridge._core.spec import ArraySpec

SOURCE = _registry.source("torch")


@torch.library.custom_op("bridge_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


cube.register_fake(lambda x: torch.empty_like(x))
cube.register_autograd(
    lambda ctx, g: g * 3 * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def spec(x):
    return ArraySpec(tuple(x.shape), str(x.dtype).removeprefix("torch."), str(x.device))


def op(fn, *xs, capture="require", seed_argnum=None):
    names = [str(i) for i in range(len(xs))]
    primals = tuple(map(spec, xs))
    return SOURCE.make_op(
        fn,
        name="f",
        primals=primals,
        argument_names=names,
        capture=capture,
        seed_argnum=seed_argnum,
    )


def row(results):
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    return [y if isinstance(y, torch.Tensor) else torch.tensor(y) for y in results]


def smooth(xs):
    return tuple(i for i, x in enumerate(xs) if x.is_floating_point() or x.is_complex())


def like(x, seed):
    generator = torch.Generator().manual_seed(seed)
    if x.is_complex() or x.is_floating_point():
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)
    return torch.randint(0, int(x.max()) + 1, x.shape, generator=generator).to(x.dtype)


def recorded(fn, xs, wanted, given, cotangents, **options):
    """Gradients by plain autograd on the function itself."""
    free = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(xs)]
    ys = row(fn(*(x.clone() for x in free)))
    pairs = [(ys[i], c) for i, c in zip(given, cotangents, strict=True) if ys[i].requires_grad]
    if not pairs:
        return [torch.zeros_like(xs[i]) for i in wanted]
    outputs, cotangents = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        outputs, [free[i] for i in wanted], cotangents, allow_unused=True, **options
    )
    return [torch.zeros_like(xs[i]) if g is None else g for i, g in zip(wanted, found, strict=True)]


def backward(split, xs, results, cotangents, needed):
    kept = [*(xs[i] for i in split.saved_primals), *(results[i] for i in split.saved_outputs)]
    # Dense copies, as they are after a framework has kept them.
    residuals = [
        r.clone(memory_format=torch.contiguous_format) for r in results[split.output_count :]
    ]
    return split.backward(needed).call(*kept, *residuals, *cotangents)


def close(found, expected, **tolerances):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.detach().contiguous(), **tolerances)


def storages(tensors):
    return [x.untyped_storage().data_ptr() for x in tensors if x.numel()]
