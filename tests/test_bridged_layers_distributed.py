"""Modules of other frameworks in models of torch that are spread over processes."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("jax")

if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

import jax  # noqa: E402, behind the skips
import jax.numpy as jnp  # noqa: E402

from bridge import ArgumentError, Functional, jax2torch, to_jax  # noqa: E402
from tests import ranks as rank_jobs  # noqa: E402
from tests.bridged_layers import (  # noqa: E402
    batch,
    close,
    functional_reference,
    make_functional,
    weights,
)
from tests.ranks import of_job, without_folder  # noqa: E402

nn = torch.nn


def residual(params, x):
    """Two groups of parameters, a product and a square."""
    y = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return x + y @ params["last"]["w"] + params["scale"] * x**2


def make_params():
    first = {"w": weights(3, 5), "b": weights(5)}
    return {"first": first, "last": {"w": weights(5, 3)}, "scale": weights(3)}


def make_layer():
    return jax2torch(Functional(residual, jax.tree.map(jnp.asarray, make_params())))


class Native(nn.Module):
    """`residual` in torch, with parameters of the same names."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Module(), nn.Module()
        params = jax.tree.map(torch.tensor, make_params())
        self.first.w, self.first.b = (nn.Parameter(params["first"][name]) for name in "wb")
        self.last.w, self.scale = nn.Parameter(params["last"]["w"]), nn.Parameter(params["scale"])

    def forward(self, x):
        y = torch.tanh(x @ self.first.w + self.first.b)
        return x + y @ self.last.w + self.scale * x**2


def model(layer=make_layer):
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 3), layer(), nn.Linear(3, 2))


def loss(there, x):
    return (there(x) ** 3).mean()


def part(rank):
    return batch()[rank :: rank_jobs.COUNT]


def gradients(there):
    return {name: full(x.grad) for name, x in there.named_parameters()}


def full(x):
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def train(there, x):
    optimizer = torch.optim.AdamW(there.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss(there, x).backward()
        optimizer.step()
    return {name: full(x.detach()) for name, x in there.named_parameters()}


def data_parallel(**options):
    return nn.parallel.DistributedDataParallel(model(), **options)


def averaged(rank, **options):
    there = data_parallel(**options)
    for _ in range(2):  # a static graph is known from the second pass on
        there.zero_grad()
        loss(there, part(rank)).backward()
    return gradients(there.module)


def accumulated(rank):
    there = data_parallel()
    with there.no_sync():
        loss(there, part(rank)).backward()
    loss(there, part(rank)).backward()
    return {name: x / 2 for name, x in gradients(there.module).items()}


def statistics(rank):
    """The buffers of a rank after two calls in training; those of rank 0 are sent before each."""
    layer = make_functional()
    there = nn.parallel.DistributedDataParallel(layer)
    for _ in range(2):
        loss(there, part(rank)).backward()
    return dict(layer.named_buffers())


def shard(layers=("1", ""), *, reshard=True, there=None, **options):
    from torch.distributed.fsdp import fully_shard

    there = model() if there is None else there
    for name in layers:
        fully_shard(there.get_submodule(name), reshard_after_forward=reshard, **options)
    return there


def sharded(rank, *args, **options):
    there = shard(*args, **options)
    loss(there, part(rank)).backward()
    return gradients(there)


def in_half_precision(rank):
    from torch.distributed.fsdp import MixedPrecisionPolicy

    seen = []
    there = model()
    there[1].register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found = sharded(rank, ("1", ""), there=there, mp_policy=policy)
    assert seen == [torch.bfloat16]
    return found


def with_a_frozen_group(rank):
    there = model()
    there.get_submodule("1.first").requires_grad_(False)
    shard(there=there)
    loss(there, part(rank)).backward()
    assert there[1].first.w.grad is None
    return {name: full(x.grad) for name, x in there.named_parameters() if x.requires_grad}


def from_meta(rank):
    """Made without values, sharded, and filled from the state of rank 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    specs = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_params()))
    with torch.device("meta"):
        there = model(lambda: jax2torch(Functional(residual, specs)))
    assert all(x.is_meta for x in there.parameters())
    shard(there=there)
    there.to_empty(device="cpu")
    state = model().state_dict() if rank == 0 else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(there, state, options=options)
    loss(there, part(rank)).backward()
    return gradients(there)


def from_checkpoint(rank, folder):
    """Saved by shards after training, and loaded into another model, by shards too."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    there = shard()
    train(there, part(rank))
    dcp.save(get_model_state_dict(there), checkpoint_id=f"{folder}/checkpoint")
    other = shard()
    state = get_model_state_dict(other)
    dcp.load(state, checkpoint_id=f"{folder}/checkpoint")
    other.load_state_dict(state)
    return get_model_state_dict(other, options=StateDictOptions(full_state_dict=True))


def refused(rank):
    """What is said of groups that are sharded by themselves, first and after a plain call."""
    texts = []
    for calls in (0, 1):
        there = make_layer()
        for _ in range(calls):
            there(part(rank))
        texts += [text_of(lambda there=there: shard(("first",), there=there))]
    return texts


def with_a_distributed_parameter(rank):
    """What is said of a parameter that tensor parallelism has put in the place of another."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    there = make_layer()
    mesh = init_device_mesh("cpu", (2,))
    there.first.b = nn.Parameter(distribute_tensor(there.first.b.detach(), mesh))
    return text_of(lambda: there(part(rank)))


def not_converted(rank):
    return text_of(lambda: to_jax(shard()[1]))


def text_of(call):
    try:
        call()
    except ArgumentError as error:
        return str(error)
    return "no error"


def project(x, w, b):
    return jnp.tanh(x @ w + b)


def tensor_parallel(rank):
    """A function over columns of a weight, each rank of which has its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.experimental import local_map

    mesh = init_device_mesh("cpu", (rank_jobs.COUNT,))
    columns = local_map(
        jax2torch(project),
        out_placements=[Shard(1)],
        in_placements=([Replicate()], [Shard(1)], [Shard(0)]),
        in_grad_placements=([Replicate()], [Shard(1)], [Shard(0)]),
        device_mesh=mesh,
    )
    places = [Replicate()], [Shard(1)], [Shard(0)]
    values = torch.tensor(weights(4, 3)), torch.tensor(weights(3, 6)), torch.tensor(weights(6))
    x, w, b = (
        distribute_tensor(v, mesh, place).requires_grad_()
        for v, place in zip(values, places, strict=True)
    )
    y = columns(x, w, b)
    (y**2).sum().backward()
    return {"y": y.full_tensor(), "w": w.grad.full_tensor(), "b": b.grad.full_tensor()}


GRADIENTS = {
    "DDP": averaged,
    "DDP, views of buckets": lambda rank: averaged(rank, gradient_as_bucket_view=True),
    "DDP, static graph": lambda rank: averaged(rank, static_graph=True),
    "DDP, accumulated": accumulated,
    "FSDP around": lambda rank: sharded(rank, [""]),
    "FSDP around, kept": lambda rank: sharded(rank, [""], reshard=False),
    "FSDP of the module": lambda rank: sharded(rank, ["1", ""]),
    "FSDP of the module, kept": lambda rank: sharded(rank, ["1", ""], reshard=False),
    "FSDP, frozen group": with_a_frozen_group,
    "FSDP from meta": from_meta,
}
TRAINED = {
    "DDP, trained": lambda rank, _: train(data_parallel(), part(rank)),
    "FSDP, trained": lambda rank, _: train(shard(), part(rank)),
    "FSDP from a checkpoint": from_checkpoint,
}
JOBS = {
    **without_folder(GRADIENTS),
    **TRAINED,
    "FSDP in half precision": lambda rank, _: in_half_precision(rank),
    "statistics": lambda rank, _: statistics(rank),
    "parameter": lambda rank, _: with_a_distributed_parameter(rank),
    "group": lambda rank, _: refused(rank),
    "to_jax": lambda rank, _: not_converted(rank),
    "tensor parallel": lambda rank, _: tensor_parallel(rank),
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return rank_jobs.run(__name__, str(tmp_path_factory.mktemp("ranks")))


@pytest.fixture(scope="module")
def native():
    return model(Native)


@pytest.mark.parametrize("job", GRADIENTS)
def test_gradients_of_all_ranks_are_those_of_one_process(ranks, native, job):
    native.zero_grad()
    loss(native, batch()).backward()
    for found in of_job(ranks, job):
        assert found
        close(found, {name: x for name, x in gradients(native).items() if name in found})


@pytest.mark.parametrize("job", TRAINED)
def test_training_of_all_ranks_is_that_of_one_process(ranks, native, job):
    expected = train(copy.deepcopy(native), batch())
    for found in of_job(ranks, job):
        close({name.removeprefix("module."): x for name, x in found.items()}, expected)


def test_sharded_modules_compute_in_half_precision(ranks, native):
    native.zero_grad()
    loss(native, batch()).backward()
    for found in of_job(ranks, "FSDP in half precision"):
        close(found, gradients(native), rtol=0.1, atol=0.05)


def test_statistics_are_those_of_the_first_rank_before_each_call(ranks):
    layer = make_functional()
    params, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())
    _, first = functional_reference(params, buffers, part(0), True)
    for rank, found in enumerate(of_job(ranks, "statistics")):
        close(found, functional_reference(params, first, part(rank), True)[1])


def test_a_sharded_group_is_refused_with_what_to_do(ranks):
    for texts in of_job(ranks, "group"):
        for text in texts:
            assert "a group of a module of another framework is never called by itself" in text
            assert "`fully_shard`, which works by hooks, takes the whole module" in text


def test_a_distributed_parameter_is_refused_with_what_to_do(ranks):
    for text in of_job(ranks, "parameter"):
        assert "first.b of residual is a DTensor, spread over several processes" in text
        assert "For tensor parallelism, bridge a function" in text


def test_a_sharded_module_is_converted_by_nobody(ranks):
    for text in of_job(ranks, "to_jax"):
        assert "DTensor" in text
        assert "`.to_local()`" in text


def test_a_bridged_function_in_tensor_parallel_code(ranks):
    x, w, b = (torch.tensor(weights(*s), requires_grad=True) for s in ((4, 3), (3, 6), (6,)))
    y = torch.tanh(x @ w + b)
    (y**2).sum().backward()
    for found in of_job(ranks, "tensor parallel"):
        close(found, {"y": y.detach(), "w": w.grad, "b": b.grad})
