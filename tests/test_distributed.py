"""Wrapped functions in models that are spread over processes: two ranks of gloo, on the host."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("jax")

if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402, behind the skips

from bridge import ArgumentError, jax2torch  # noqa: E402
from tests.ranks import of_job, run, without_folder  # noqa: E402

RANKS = 2
X = np.random.default_rng(61).normal(size=(8, 3))


@jax2torch
def mixing(x, weight, bias):
    """A layer with its parameters: products, a square that no linear layer has, two results."""
    y = jnp.tanh(x @ weight) * bias + x
    return y, jnp.sum(y * y)


class Model(torch.nn.Module):
    """Native layers around a wrapped function that has parameters of its own."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.middle = Middle()
        self.last = torch.nn.Linear(3, 1)

    def forward(self, x):
        y, norm = self.middle(self.first(x))
        return self.last(y).square().mean() + 0.1 * norm / len(x)


class Middle(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3))
        self.bias = torch.nn.Parameter(torch.randn(3))

    def forward(self, x):
        return mixing(x, self.weight, self.bias)


def model():
    torch.manual_seed(7)
    return Model().double()


def batch():
    return torch.tensor(X)


def part(rank):
    return batch()[rank::RANKS]


def gradients(parameters):
    return {name: p.grad for name, p in parameters}


# What each rank does; what it returns is compared by the tests.


def data_parallel(rank, **options):
    """The gradients, averaged over the ranks, of a model whose ranks see a part of the batch."""
    there = torch.nn.parallel.DistributedDataParallel(model(), **options)
    there(part(rank)).backward()
    return gradients(there.module.named_parameters())


def accumulated(rank):
    """The same from two backward passes, the first of which is not averaged."""
    there = torch.nn.parallel.DistributedDataParallel(model())
    first, second = part(rank).chunk(2)
    with there.no_sync():
        there(first).backward()
    there(second).backward()
    return {k: g / 2 for k, g in gradients(there.module.named_parameters()).items()}


def trained(rank):
    """The parameters after three steps of an optimizer, by name."""
    there = torch.nn.parallel.DistributedDataParallel(model())
    return steps(there, part(rank), dict(there.module.named_parameters()))


def steps(there, x, parameters):
    optimizer = torch.optim.SGD(there.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        there(x).backward()
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


def sharded(rank, *, layers, reshard):
    """A model whose parameters are spread over the ranks."""
    from torch.distributed.fsdp import fully_shard

    there = model()
    for layer in layers:
        fully_shard(there.get_submodule(layer), reshard_after_forward=reshard)
    return fully_shard(there, reshard_after_forward=reshard)


def fully_sharded(rank, **options):
    """The gradients of a sharded model, gathered."""
    there = sharded(rank, **options)
    there(part(rank)).backward()
    return {k: g.full_tensor() for k, g in gradients(there.named_parameters()).items()}


def fully_sharded_and_trained(rank):
    there = sharded(rank, layers=["first", "middle", "last"], reshard=True)
    steps(there, part(rank), {})
    return {name: p.detach().full_tensor() for name, p in there.named_parameters()}


def refused(rank):
    """What is said of a DTensor: alone, in a tree, and where a plain tensor was seen before."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    weight, bias = torch.ones(3, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    calls = {
        "sharded": lambda f, x: f(distribute_tensor(x, mesh, [Shard(0)]), weight, bias),
        "replicated": lambda f, x: f(distribute_tensor(x, mesh, [Replicate()]), weight, bias),
        "parameter": lambda f, x: f(x, distribute_tensor(weight, mesh, [Shard(0)]), bias),
        "keyword": lambda f, x: f(
            x, weight, bias=distribute_tensor(bias, mesh, [Shard(0)]).requires_grad_()
        ),
        "in a tree": lambda f, x: jax2torch(lambda t: t["x"][0])(
            {"x": [distribute_tensor(x, mesh, [Shard(0)])]}
        ),
    }
    found = {name: [text_of(call, fresh()) for _ in range(2)] for name, call in calls.items()}
    f = fresh()
    f(batch(), weight, bias)
    for name, call in calls.items():
        found[f"{name}, after a plain call"] = [text_of(call, f) for _ in range(2)]
    return found


def fresh():
    """The function, wrapped anew."""
    return jax2torch(mixing.__wrapped__)


def text_of(call, f):
    try:
        call(f, batch())
    except ArgumentError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001, it is the test's to judge
        return f"not an ArgumentError: {error!r}"
    return "no error"


def local(rank):
    """What a DTensor's `.to_local()` gives, and its gradient back in the DTensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    x = distribute_tensor(batch(), mesh, [Shard(0)]).requires_grad_()
    y = jax2torch(lambda x: jnp.sin(x))(x.to_local())
    y.sum().backward()
    return {"gradient": x.grad.full_tensor()}


JOBS = without_folder(
    {
        "DDP": data_parallel,
        "DDP, views of buckets": lambda rank: data_parallel(rank, gradient_as_bucket_view=True),
        "DDP, unused parameters": lambda rank: data_parallel(rank, find_unused_parameters=True),
        "DDP, static graph": lambda rank: data_parallel(rank, static_graph=True),
        "DDP, accumulated": accumulated,
        "DDP, trained": trained,
        "FSDP": lambda rank: fully_sharded(rank, layers=[], reshard=False),
        "FSDP, resharded": lambda rank: fully_sharded(rank, layers=[], reshard=True),
        "FSDP, layers": lambda rank: fully_sharded(
            rank, layers=["first", "middle", "last"], reshard=True
        ),
        "FSDP, trained": fully_sharded_and_trained,
        "DTensor": refused,
        "local": local,
    }
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank has found, by job."""
    return run(__name__, str(tmp_path_factory.mktemp("ranks")), RANKS, seconds=120)


GRADIENTS = [name for name in JOBS if "DDP" in name or "FSDP" in name]


@pytest.mark.parametrize("job", [name for name in GRADIENTS if "trained" not in name])
def test_gradient_of_all_ranks_is_that_of_one_process(ranks, job):
    """The loss is a mean over the batch, of which every rank has an equal part."""
    alone = native()
    alone(batch()).backward()
    for found in of_job(ranks, job):
        torch.testing.assert_close(found, gradients(alone.named_parameters()))


@pytest.mark.parametrize("job", [name for name in GRADIENTS if "trained" in name])
def test_training_of_all_ranks_is_that_of_one_process(ranks, job):
    alone = native()
    expected = steps(alone, batch(), dict(alone.named_parameters()))
    for found in of_job(ranks, job):
        torch.testing.assert_close(found, expected)


def native():
    """The model with the function written in torch."""
    alone = model()

    def forward(x):
        y = torch.tanh(x @ alone.middle.weight) * alone.middle.bias + x
        return y, (y * y).sum()

    alone.middle.forward = forward
    return alone


ARGUMENTS = {"sharded": "x", "replicated": "x", "parameter": "weight", "keyword": "bias"}
REFUSED = {**ARGUMENTS, "in a tree": "t['x'][0]"}


@pytest.mark.parametrize("after", ["", ", after a plain call"], ids=["first", "after"])
@pytest.mark.parametrize("case", REFUSED)
def test_dtensor_is_refused_and_the_error_says_what_to_write(ranks, case, after):
    """Twice: what is known of the class of an argument must not change the answer."""
    for found in of_job(ranks, "DTensor"):
        for text in found[case + after]:
            assert f"argument {REFUSED[case]} of" in text
            assert "DTensor" in text
            assert "`.to_local()`" in text


def test_local_part_of_a_dtensor_has_its_gradient(ranks):
    for found in of_job(ranks, "local"):
        torch.testing.assert_close(found["gradient"], torch.tensor(X).cos())
