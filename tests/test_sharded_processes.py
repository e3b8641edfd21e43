"""Arrays that are split over four processes, as DTensors and back: gloo, on the host."""

import functools
import pathlib
import socket

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

from jax.sharding import Mesh, NamedSharding, PartitionSpec as P  # noqa: E402, behind the skips
from torch.distributed.tensor import Replicate, Shard  # noqa: E402

from bridge import ArgumentError, to_jax, to_torch, torch2jax  # noqa: E402
from tests.ranks import of_job, run, without_folder  # noqa: E402

RANKS = 4
NAMES = ("dp", "tp")
X = np.random.default_rng(7).normal(size=(8, 4))
WHOLE = Replicate()
TURNED = {
    "line": ([2, 0, 3, 1], "(dp=4) of the processes [2, 0, 3, 1]", "dp", [2, 0, 3, 1]),
    "outer axis": ([[2, 3], [0, 1]], "(dp=2, tp=2) of the processes [2, 3, 0, 1]", "dp", [2, 0]),
    "inner axis": ([[0, 1], [3, 2]], "(dp=2, tp=2) of the processes [0, 1, 3, 2]", "tp", [3, 2]),
    "axis of three": (
        [[[0, 3]], [[2, 1]]],
        "(dp=2, tp=1, pp=2) of the processes [0, 3, 2, 1]",
        "dp",
        [3, 1],
    ),
}
TABLE = {
    "both": (P("dp", "tp"), [Shard(0), Shard(1)]),
    "crossed": (P("tp", "dp"), [Shard(1), Shard(0)]),
    "one dimension": (P(("dp", "tp")), [Shard(0), Shard(0)]),
    "the last dimension": (P(None, ("dp", "tp")), [Shard(1), Shard(1)]),
    "inner axis": (P(None, "tp"), [WHOLE, Shard(1)]),
    "outer axis": (P("dp"), [Shard(0), WHOLE]),
    "replicated": (P(), [WHOLE, WHOLE]),
}


def device_mesh(*shape, names=NAMES):
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def jax_mesh(*shape, names=NAMES):
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    return Mesh(np.array(devices).reshape(shape), names)


def made_by_jax(x, sharding):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def is_right(array):
    """Whether each shard of `array` here is the part of `X` that JAX says it is."""
    shards = array.addressable_shards
    return all((np.asarray(shard.data) == X[shard.index]).all() for shard in shards)


# What each rank does; what it returns is looked at by the tests.


def table(rank):
    """For each row of the table what comes of an array, and of a DTensor."""
    from torch.distributed.tensor import distribute_tensor

    there, mesh = device_mesh(2, 2), jax_mesh(2, 2)
    result = {}
    for name, (spec, placements) in TABLE.items():
        sharding = NamedSharding(mesh, spec)
        tensor = to_torch(made_by_jax(X, sharding), mesh=there)
        array = to_jax(distribute_tensor(torch.tensor(X), there, placements), mesh=mesh)
        addresses = (x.to_local().data_ptr() for x in (tensor, to_torch(array, mesh=there)))
        memory = next(addresses), array.addressable_data(0).unsafe_buffer_pointer()
        back = to_jax(tensor, mesh=mesh).addressable_data(0).unsafe_buffer_pointer()
        result[name] = {
            "placements": list(tensor.placements) == placements,
            "values in torch": bool((tensor.full_tensor().numpy() == X).all()),
            "sharding": array.sharding == sharding,
            "values in JAX": is_right(array),
            "memory of JAX": next(addresses) == memory[1],
            "memory of torch": back == memory[0],
        }
    return result


def submesh(rank):
    """Of a mesh of two axes, one axis: each process sees its own row."""
    from torch.distributed.tensor import distribute_tensor

    there = device_mesh(2, 2)["tp"]
    mesh = Mesh(jax_mesh(2, 2).devices[rank // 2], ("tp",))
    array = to_jax(distribute_tensor(torch.tensor(X), there, [Shard(0)]), mesh=mesh)
    tensor = to_torch(array, mesh=there)
    return is_right(array), bool((tensor.full_tensor().numpy() == X).all())


def crossed(rank):
    """On a mesh whose ranks ascend along each axis, not as a whole, is each layout right?"""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import distribute_tensor

    ranks = torch.arange(RANKS).reshape(2, 2).T
    there = DeviceMesh("cpu", ranks, mesh_dim_names=NAMES)
    mesh = Mesh(jax_mesh(RANKS, names=("all",)).devices[ranks.numpy()], NAMES)
    right = []
    for spec, placements in TABLE.values():
        right.append(
            is_right(to_jax(distribute_tensor(torch.tensor(X), there, placements), mesh=mesh))
        )
        tensor = to_torch(made_by_jax(X, NamedSharding(mesh, spec)), mesh=there)
        right.append(bool((tensor.full_tensor().numpy() == X).all()))
    return right


def turned(rank):
    """For each mesh whose ranks do not ascend, what is said in either direction."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

    result = {}
    for case, (ranks, *_) in TURNED.items():
        names = ("dp", "tp", "pp")[: np.ndim(ranks)]
        there = DeviceMesh("cpu", torch.tensor(ranks), mesh_dim_names=names)
        devices = jax_mesh(RANKS, names=("all",)).devices
        mesh = Mesh(devices[np.array(ranks)], names)
        tensor = DTensor.from_local(
            torch.tensor(X), there, [WHOLE] * np.ndim(ranks), run_check=False
        )
        array = made_by_jax(X, NamedSharding(mesh, P("dp")))
        result[case] = (
            text_of(functools.partial(to_jax, {"w": tensor}, mesh=mesh)),
            text_of(functools.partial(to_torch, {"w": array}, mesh=there)),
        )
    return result


def refused(rank):
    """What is said of arrays that cannot cross."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, distribute_tensor

    line, square = device_mesh(4, names=("dp",)), device_mesh(2, 2)
    mesh = jax_mesh(4, names=("dp",))
    place = lambda x, *placements, there=line: distribute_tensor(x, there, list(placements))
    reverse = Mesh(mesh.devices[::-1], ("dp",))
    array = made_by_jax(X, NamedSharding(mesh, P("dp")))
    half = DeviceMesh("cpu", torch.arange(2), mesh_dim_names=("dp",))
    calls = {
        "uneven": lambda: to_jax({"w": place(torch.ones(6, 3), Shard(0))}, mesh=mesh),
        "smaller": lambda: to_jax({"w": place(torch.ones(2), Shard(0))}, mesh=mesh),
        "uneven over two axes": lambda: to_jax(
            {"w": place(torch.ones(3, 6), Shard(1), Shard(1), there=square)}, mesh=jax_mesh(2, 2)
        ),
        "other shape": lambda: to_jax({"w": place(torch.tensor(X), Shard(0))}, mesh=jax_mesh(2, 2)),
        "other order": lambda: to_jax({"w": place(torch.tensor(X), Shard(0))}, mesh=reverse),
        "other order, to torch": lambda: to_torch(
            {"w": made_by_jax(X, NamedSharding(reverse, P("dp")))}, mesh=line
        ),
        "no mesh": lambda: to_torch({"w": array}),
        "no mesh, to JAX": lambda: to_jax({"w": place(torch.tensor(X), Shard(0))}),
        "no place": lambda: to_jax(
            {"w": DTensor.from_local(torch.tensor(X), half, [WHOLE], run_check=False)},
            mesh=Mesh(mesh.devices[:2], ("dp",)),
        ),
    }
    return {name: text_of(call) for name, call in calls.items()}


def text_of(call):
    try:
        call()
    except ArgumentError as error:
        return str(error)
    return "no error"


def model():
    torch.manual_seed(7)
    layers = torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
    return torch.nn.Sequential(*layers).double()


def steps(module, gradients):
    """The parameters after three steps of an optimizer."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        gradients(module)
        optimizer.step()
    return dict(module.named_parameters())


def trained(rank):
    """Parameters of FSDP2 that were trained by gradients of JAX, which is told where they are."""
    from torch.distributed.fsdp import fully_shard

    there, mesh = device_mesh(RANKS, names=("dp",)), jax_mesh(RANKS, names=("dp",))
    bridged = torch2jax(model(), lower="xla")
    sharded = fully_shard(model(), mesh=there)
    values = lambda: {name: p.detach() for name, p in sharded.named_parameters()}
    params = to_jax(values(), mesh=mesh)
    shardings = {name: p.sharding for name, p in params.items()}
    batch = made_by_jax(X, NamedSharding(mesh, P("dp")))

    traces = []

    def loss(params, x):
        traces.append(1)
        return (bridged.apply(params, {}, x)[0] ** 2).mean()

    gradient = jax.jit(jax.grad(loss), out_shardings=shardings)

    def gradients(module):
        slopes = to_torch(gradient(to_jax(values(), mesh=mesh), batch), mesh=there)
        for name, parameter in module.named_parameters():
            parameter.grad = slopes[name]

    parameters = steps(sharded, gradients)
    assert len(traces) == 1
    return {name: p.detach().full_tensor() for name, p in parameters.items()}


JOBS = without_folder(
    {
        "table": table,
        "submesh": submesh,
        "crossed": crossed,
        "turned": turned,
        "refused": refused,
        "trained": trained,
    }
)


def set_up(rank, folder):
    """Let JAX of all ranks meet."""
    port = (pathlib.Path(folder) / "port").read_text()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", RANKS, rank)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank has returned, by job."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        (folder / "port").write_text(str(free.getsockname()[1]))
    return run(__name__, str(folder), RANKS, seconds=120)


@pytest.mark.parametrize("layout", TABLE)
def test_each_process_hands_over_its_shard(ranks, layout):
    for result in of_job(ranks, "table"):
        assert set(result[layout].values()) == {True}, result[layout]


def test_axis_of_a_larger_mesh(ranks):
    assert of_job(ranks, "submesh") == [(True, True)] * RANKS


def test_mesh_whose_axes_ascend_while_it_does_not(ranks):
    assert of_job(ranks, "crossed") == [[True] * 2 * len(TABLE)] * RANKS


@pytest.mark.parametrize("case", TURNED)
def test_ranks_that_do_not_ascend_are_refused(ranks, case):
    """Torch's placements and its collectives then disagree over who holds which part."""
    _, mesh, axis, line = TURNED[case]
    for rank, result in enumerate(of_job(ranks, "turned")):
        for text in result[case]:
            assert f"the DeviceMesh is {mesh}, seen from {rank}, and along {axis!r} its" in text
            assert f"its ranks {line} do not ascend" in text
            assert "Make both meshes of ranks that ascend along each axis" in text


LINE = "(dp=4) of the processes [0, 1, 2, 3], seen from {rank}"
REVERSE = "(dp=4) of the processes [3, 2, 1, 0], seen from {rank}"
REFUSED = {
    "uneven": "its dimension 0 has 6 elements, which 4 devices, over dp, cannot share equally",
    "smaller": "its dimension 0 has 2 elements, which 4 devices, over dp, cannot share equally",
    "uneven over two axes": "its dimension 1 has 6 elements, which 4 devices, over dp and tp,",
    "other shape": f"its mesh is {LINE}, but mesh= is (dp=2, tp=2) of the processes [0, 1, 2, 3],",
    "other order": f"its mesh is {LINE}, but mesh= is {REVERSE}. Names, sizes and processes",
    "other order, to torch": f"its mesh is {REVERSE}, but mesh= is {LINE}.",
    "no mesh": "it is a JAX array, float64[8, 4], sharded over 4 devices, some of which belong to",
    "no mesh, to JAX": "it is a DTensor, spread over several processes. Pass `.full_tensor()`,",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_cross_is_refused_with_its_numbers(ranks, case):
    for rank, result in enumerate(of_job(ranks, "refused")):
        assert f"leaf w cannot be converted: {REFUSED[case]}".format(rank=rank) in result[case]


def test_process_outside_of_the_mesh(ranks):
    for rank, result in enumerate(of_job(ranks, "refused")):
        outside = f"no place on its mesh, (dp=2) of the processes [0, 1], seen from {rank}"
        assert ("no error" if rank < 2 else outside) in result["no place"]


def test_training_of_all_ranks_is_that_of_one_process(ranks):
    def gradients(module):
        (module(torch.tensor(X)) ** 2).mean().backward()

    expected = {name: p.detach() for name, p in steps(model(), gradients).items()}
    for parameters in of_job(ranks, "trained"):
        torch.testing.assert_close(parameters, expected)
