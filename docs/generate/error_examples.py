"""Code that is refused, why, and the code to write instead."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """One error.

    Attributes:
        title: What the user did.
        code: What raises the error, in its last statement.
        cause: Why this is refused.
        remedy: Code that does what was meant, after the statements of `code` before the last.
    """

    title: str
    code: str
    cause: str
    remedy: str


EXAMPLES = (
    Example(
        "An array instead of a function",
        "jax2torch(torch.ones(2))",
        "The wrappers `a2b` take functions, the converters `to_b` take values.",
        "array = to_jax(torch.ones(2))",
    ),
    Example(
        "A Python number as a size",
        "repeat = jax2torch(lambda x, n: jnp.tile(x, n))\nrepeat(torch.ones(2), 3)",
        "JAX traces numbers, as `jax.jit` does, and a shape has to be known while it traces.",
        'repeat = jax2torch(lambda x, n: jnp.tile(x, n), static_argnames="n")\n'
        "repeat(torch.ones(2), n=3)",
    ),
    Example(
        "A condition on values, in JAX",
        "def clip(x):\n    return x if x.sum() > 0 else -x\n\n\njax2torch(clip)(torch.ones(2))",
        "A traced array has no values.",
        "jax2torch(lambda x: jnp.where(x.sum() > 0, x, -x))(torch.ones(2))\n"
        "jax2torch(clip, jit=False)(torch.ones(2))  # slower: runs again on each call",
    ),
    Example(
        "A condition on values, in torch, where a graph is required",
        "def clip(x):\n    return x if x.sum() > 0 else -x\n\n\n"
        'torch2jax(clip, capture="require")(jnp.ones(2))',
        "A graph has one branch only.",
        'torch2jax(lambda x: torch.where(x.sum() > 0, x, -x), capture="require")(jnp.ones(2))\n'
        'torch2jax(clip, capture="never")(jnp.ones(2))  # runs again on each call',
    ),
    Example(
        "An array of another framework",
        "f = jax2mlx(jnp.sin)\nf(torch.ones(2))",
        "A function that `jax2mlx` made is called from MLX.",
        "f(to_mlx(torch.ones(2)))\njax2torch(jnp.sin)(torch.ones(2))",
    ),
    Example(
        "A sparse tensor",
        "f = jax2torch(jnp.sin)\nf(torch.eye(2).to_sparse())",
        "Memory that is not one array cannot be lent.",
        "f(torch.eye(2).to_sparse().to_dense())",
    ),
    Example(
        "A dtype that the other framework lacks",
        "x = torch.ones(2, dtype=torch.complex128)\nto_mlx(x)",
        "Nothing is narrowed in silence.",
        "to_mlx(x.to(torch.complex64))",
    ),
    Example(
        "A result of 64 bits while JAX is in its 32-bit mode",
        "widen = torch2jax(lambda x: x.double())\nwiden(jnp.ones(2))",
        "JAX has no float64 in that mode, and a float32 would lack half of the digits.",
        "torch2jax(lambda x: x.double().sin().float())(jnp.ones(2))\n"
        "with jax.enable_x64(True):\n    widen(jnp.ones(2))",
    ),
    Example(
        "An integer that does not fit into 32 bits",
        "f = jax2torch(lambda n: n + 1)\nf(torch.tensor([2**40]))",
        "Without its 64-bit mode JAX computes with int32.",
        "jax2torch(lambda n: n + 1, x64=True)(torch.tensor([2**40]))",
    ),
    Example(
        "A tensor that requires grad, as a value",
        "x = torch.ones(2, requires_grad=True)\nto_jax(x)",
        "A converter carries no derivatives, and would cut the graph in silence.",
        "to_jax(x.detach())\njax2torch(jnp.sin)(x)  # for a result with a gradient",
    ),
    Example(
        "A tracer, as a value",
        "jax.jit(lambda x: to_torch(x))(jnp.ones(2))",
        "A tracer of JAX has a shape and no values.",
        "jax.jit(torch2jax(torch.sin))(jnp.ones(2))",
    ),
    Example(
        "Memory that cannot be shared",
        "x = torch.ones(2)\nto_mlx(x, copy=False)",
        "MLX copies what it takes on the CPU.",
        "to_mlx(x)",
    ),
    Example(
        "An object that holds arrays, as an argument",
        "class Model:\n    def __init__(self):\n        self.w = torch.ones(2)\n\n\n"
        "f = jax2torch(lambda model, x: x)\nf(Model(), torch.ones(2))",
        "It is no pytree: its arrays would be constants, without gradients and without updates.",
        'jax2torch(lambda parts, x: parts["w"] * x)(vars(Model()), torch.ones(2))',
    ),
    Example(
        "Random numbers without a key",
        "noisy = torch2jax(lambda x: x + torch.randn_like(x))\nnoisy(jnp.ones(2))",
        "A function of JAX is pure: its random numbers follow from an argument.",
        "noisy(jnp.ones(2), rng=jax.random.key(0))",
    ),
    Example(
        "`mx.compile` around a bridged function",
        "f = jax2mlx(jnp.sin)\nmx.eval(mx.compile(lambda x: f(x) + 1)(mx.ones(2)))",
        "`mx.compile` records only what MLX computes.",
        "mx.compile(lambda x: x + 1)(f(mx.ones(2)))",
    ),
    Example(
        "A derivative that the source lacks",
        "f = mlx2torch(lambda a: mx.linalg.inv(a, stream=mx.cpu))\n"
        "a = torch.eye(2, requires_grad=True)\nf(a).sum().backward()",
        "MLX has no derivative of the inverse.",
        "torch.linalg.inv(a).sum().backward()",
    ),
    Example(
        "A function on NumPy arrays without a rule",
        "x = torch.ones(2, requires_grad=True)\nnumpy2torch(np.cos)(x).sum().backward()",
        "Its derivatives follow from a rule only.",
        "from bridge.rules import ComplexStep\n\n"
        "numpy2torch(np.cos, gradient=ComplexStep())(x).sum().backward()",
    ),
    Example(
        "An option with a wrong value",
        'jax2torch(jnp.sin, residuals="all")',
        "An option takes the values that [its table](options.md) names.",
        'jax2torch(jnp.sin, residuals="save")',
    ),
    Example(
        "A device that JAX does not have",
        'f = jax2torch(jnp.sin, device="cuda:7")\nf(torch.ones(2))',
        "JAX has the devices that `jax.devices()` lists.",
        'jax2torch(jnp.sin, device="cpu")(torch.ones(2))',
    ),
)
