"""Modules of other frameworks in code that torch compiles or exports."""

import contextlib
import io

import pytest

from bridge import ArgumentError, Functional, jax2torch
from tests.bridged_layers import KINDS, arrays, batch, close, make_functional, pair
from tests.processes import fresh_process

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

BACKENDS = ["eager", "aot_eager", "inductor"]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def counting(backend="eager"):
    """A backend that counts graphs."""
    graphs = []

    def compile_graph(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    return graphs, compile_graph


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_for_all_steps(kind, backend):
    layer, twin = kind.make(), kind.make()
    graphs, compiler = counting(backend)
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    optimizers = [torch.optim.SGD(x.parameters(), lr=0.05) for x in (layer, twin)]
    for _ in range(3):
        for call, optimizer in zip((compiled, twin), optimizers, strict=True):
            optimizer.zero_grad()
            (call(batch()) ** 2).mean().backward()
            optimizer.step()
        close(dict(layer.state_dict()), dict(twin.state_dict()))
    assert len(graphs) == 1
    close(compiled.eval()(batch()), twin.eval()(batch()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_compiled_forwards_before_a_backward(backend):
    layer, twin = make_functional(), make_functional()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for call in (compiled, twin):
        first, second = call(batch()), call(2 * batch())
        ((first**2).sum() + (second**3).sum()).backward()
    close(dict(layer.named_buffers()), dict(twin.named_buffers()))
    close([x.grad for x in layer.parameters()], [x.grad for x in twin.parameters()])


def halving(params, buffers, x, *, training):
    """A function whose derivative needs the buffer that the call changes."""
    new = {"a": buffers["a"] / 2} if training else buffers
    return jnp.sum(params["w"] ** 2 * buffers["a"] * x), new


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_backward_passes_see_buffers_before_the_call(backend, recompute):
    """Compilers compute clones of a buffer again, after it was written to: pytorch#197039."""
    import torch._functorch.config as config

    params, buffers = {"w": jnp.array([1.5, -0.5, 2.0])}, {"a": jnp.array([0.3, 0.4, -0.5])}
    layer = jax2torch(Functional(halving, params, buffers))
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = batch()[0]
    with config.patch(aggressive_recomputation=recompute):
        for _ in range(2):
            a, w = layer.a.clone(), layer.w.detach()
            layer.zero_grad()
            compiled(x).backward()
            close(layer.w.grad, 2 * w * a * x)
            close(layer.a, a / 2)


def test_compiled_ensembles_have_statistics_of_their_own():
    layers = [make_functional(seed) for seed in range(2)]
    params, buffers = torch.func.stack_module_state(layers)
    base = make_functional().to("meta")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def call(params, buffers):
        def one(params, buffers):
            return torch.func.functional_call(base, (params, buffers), (batch(),)), buffers

        return torch.vmap(one)(params, buffers)

    found, new = call(params, {name: x.clone() for name, x in buffers.items()})
    close(found, torch.stack([layer(batch()) for layer in layers]))
    for name, buffer in new.items():
        close(buffer, torch.stack([dict(layer.named_buffers())[name] for layer in layers]))


def dropping(params, buffers, x, *, rng, training):
    """A scale whose dropout shows in the output, twice, and a count of calls."""
    if not training:
        return params["w"] * x, buffers
    first, second = jax.random.split(rng)
    keep = jax.random.bernoulli(first, 0.5, x.shape) / jax.random.uniform(second, x.shape)
    return params["w"] * x * keep, {"count": buffers["count"] + 1}


def make_dropout():
    params = {"w": jnp.array([1.5, -0.5, 2.0])}
    return jax2torch(Functional(dropping, params, {"count": jnp.array(0)}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_masks_of_forward_and_backward_agree(backend, recompute):
    import torch._functorch.config as config

    layer = make_dropout()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = torch.ones(40, 3, requires_grad=True)
    patch = config.patch(aggressive_recomputation=True) if recompute else contextlib.nullcontext()
    outputs = []
    with patch:
        for step in range(3):
            x.grad = None
            outputs.append(compiled(x))
            outputs[-1].sum().backward()
            close(x.grad, outputs[-1].detach())
            assert layer.count == step + 1
    assert not torch.equal(outputs[0], outputs[1])
    torch.manual_seed(4)
    first = compiled(x)
    torch.manual_seed(4)
    close(compiled(x), first, rtol=0, atol=0)
    state = torch.get_rng_state()
    compiled.eval()(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_compiled_draws_are_those_of_eager_code():
    layer = make_dropout()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(torch.ones(4, 3))
    torch.manual_seed(2)
    expected = layer(torch.ones(4, 3))
    torch.manual_seed(2)
    close(compiled(torch.ones(4, 3)), expected)


def test_modes_by_name_of_the_compiler():
    layer, twin = make_functional(), make_functional()
    for mode in ("default", "reduce-overhead"):
        compiled = torch.compile(layer, fullgraph=True, mode=mode)
        close(compiled(batch()), twin(batch()))


def test_compiled_checkpoints():
    layer = make_dropout()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def call(x):
        return torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)

    x = torch.ones(40, 3, requires_grad=True)
    y = call(x)
    y.sum().backward()
    close(x.grad, y.detach())


def test_layers_within_compiled_models():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), make_functional(), torch.nn.Linear(2, 2))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(model(batch()).square().sum(), [*model.parameters()])
    close(torch.autograd.grad(compiled(batch()).square().sum(), [*model.parameters()]), expected)


def test_compiled_methods_autocast_and_frozen_groups():
    layer = jax2torch(pair())
    method = torch.compile(lambda x: layer(x, method="twice"), fullgraph=True, backend="eager")
    close(method(batch()), 2 * layer(batch()))
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert compiled(batch().bfloat16()).dtype == torch.float32
    next(layer.parameters()).requires_grad_(False)
    torch.compile(layer, backend="aot_eager")(batch()).sum().backward()
    assert [x.grad is None for x in layer.parameters()] == [True, False]


def test_replaced_parameters_are_seen():
    layer = jax2torch(pair())
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    compiled(batch())
    name, parameter = next(layer.named_parameters())
    setattr(layer, name, torch.nn.Parameter(3 * parameter.detach()))
    close(compiled(batch()), layer(batch()))
    params, buffers = arrays(layer)
    close(compiled(batch()), KINDS["pytree"].reference(params, buffers, batch(), True)[0])


def test_exported_in_evaluation(kind):
    layer = kind.make().eval()
    program = torch.export.export(layer, (batch(),))
    close(program.module()(batch()), layer(batch()))
    assert {*program.state_dict} == {*layer.state_dict()}
    if kind.source == "mlx":  # a graph of MLX is for the sizes that it was made for
        return
    dynamic = torch.export.export(
        layer, (batch(),), dynamic_shapes=(({0: torch.export.Dim.AUTO},),)
    )
    close(dynamic.module()(batch()[:4]), layer(batch()[:4]))


def test_exported_programs_are_saved_for_this_process():
    layer = make_functional().eval()
    file = io.BytesIO()
    torch.export.save(torch.export.export(layer, (batch(),)), file)
    file.seek(0)
    close(torch.export.load(file).module()(batch()), layer(batch()))


def run_exported(path):
    """What another process says of a program that holds a module of this one."""
    make_functional()  # loads the operator
    try:
        torch.export.load(path).module()(batch())
    except ArgumentError as error:
        return str(error)
    return "no error"


def test_exported_programs_of_other_processes_are_refused(tmp_path):
    path = str(tmp_path / "program.pt2")
    torch.export.save(torch.export.export(make_functional().eval(), (batch(),)), path)
    text = fresh_process(run_exported, path)
    assert "functional_net" in text
    assert "another process" in text


def test_an_export_in_training_writes_statistics():
    layer, twin = make_functional(), make_functional()
    program = torch.export.export(layer, (batch(),)).module()
    close(program(batch()), twin(batch()))
    close(dict(program.named_buffers()), dict(twin.named_buffers()))
