"""Arrays that are split over a mesh of processes, as DTensors and back, in one process."""

import contextlib

import numpy as np
import pytest

from tests.processes import fresh_process, use_loopback

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402, behind the skips
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P  # noqa: E402
from torch.distributed import _functional_collectives as functional_collectives  # noqa: E402
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh  # noqa: E402
from torch.distributed.tensor import (  # noqa: E402
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.placement_types import _StridedShard  # noqa: E402

from bridge import (  # noqa: E402
    ArgumentError,
    CopyError,
    DeviceError,
    Functional,
    OptionError,
    jax2torch,
    to_jax,
    to_mlx,
    to_torch,
    torch2jax,
)

X = np.random.default_rng(5).normal(size=(4, 6)).astype("f4")
NAMES = ("dp", "tp")
WHOLE, REPLICATED = Replicate(), P()
TABLE = [
    (P("dp", "tp"), [Shard(0), Shard(1)]),
    (P("tp", "dp"), [Shard(1), Shard(0)]),
    (P(("dp", "tp")), [Shard(0), Shard(0)]),
    (P(None, ("dp", "tp")), [Shard(1), Shard(1)]),
    (P(None, "tp"), [WHOLE, Shard(1)]),
    (P("dp"), [Shard(0), WHOLE]),
    (P(), [WHOLE, WHOLE]),
]


@pytest.fixture(scope="module", autouse=True)
def _one_process():
    """A group of this process alone."""
    use_loopback()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def device_mesh():
    return init_device_mesh("cpu", (1, 1), mesh_dim_names=NAMES)


def jax_mesh(names=NAMES, shape=(1, 1), device=0):
    return Mesh(np.array(jax.devices("cpu")[device]).reshape(shape), names)


def sharded(x, spec=REPLICATED, **mesh):
    return jax.device_put(x, NamedSharding(jax_mesh(**mesh), spec))


def dtensor(x, mesh, placements=(WHOLE, WHOLE)):
    return DTensor.from_local(torch.as_tensor(x), mesh, placements, run_check=False)


def address(x):
    local = x.to_local() if isinstance(x, DTensor) else x.addressable_data(0)
    return local.data_ptr() if isinstance(x, DTensor) else local.unsafe_buffer_pointer()


@pytest.mark.parametrize(("spec", "placements"), TABLE)
def test_sharding_and_placements_are_each_others(device_mesh, spec, placements):
    array = sharded(X, spec)
    there = to_torch({"x": array, "plain": [jnp.ones(3), np.ones(2), "text"]}, mesh=device_mesh)
    assert isinstance(there["x"], DTensor)
    assert list(there["x"].placements) == placements
    assert there["x"].device_mesh == device_mesh
    assert (there["x"].shape, there["x"].stride()) == (X.shape, (6, 1))
    assert (there["x"].full_tensor().numpy() == X).all()
    assert type(there["plain"][0]) is type(there["plain"][1]) is torch.Tensor
    assert there["plain"][2] == "text"

    mesh = jax_mesh()
    tensor = distribute_tensor(torch.tensor(X), device_mesh, placements)
    back = to_jax({"x": tensor, "plain": torch.ones(3)}, mesh=mesh)
    assert back["x"].sharding == NamedSharding(mesh, spec)
    assert (np.asarray(back["x"]) == X).all()
    assert not isinstance(back["plain"].sharding, NamedSharding)


def test_what_is_of_the_framework_already_stays(device_mesh):
    array, tensor = sharded(X), dtensor(X, device_mesh)
    assert to_jax(array, mesh=jax_mesh()) is array
    assert to_torch(tensor, mesh=device_mesh) is tensor
    copied = to_torch(tensor, copy=True)
    assert (copied.placements, copied.full_tensor().tolist()) == (tensor.placements, X.tolist())
    assert address(copied) != address(tensor)


def test_arrays_on_one_device_need_no_mesh():
    tensor = to_torch(sharded(X, P("dp")))
    assert type(tensor) is torch.Tensor
    assert (tensor.numpy() == X).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "bool", "int8", "float16"])
@pytest.mark.parametrize("copy", [None, False, True])
def test_memory_is_shared_unless_it_is_copied(device_mesh, dtype, copy):
    array = sharded(jnp.asarray(X).astype(dtype), P("dp"))
    there = to_torch(array, copy=copy, mesh=device_mesh)
    back = to_jax(there, copy=copy, mesh=jax_mesh())
    assert back.dtype == array.dtype
    assert (np.asarray(back) == np.asarray(array)).all()
    shared = copy is not True
    assert (address(there) == address(array)) is shared
    assert (address(back) == address(there)) is shared


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (2, 1, 3)])
def test_shapes(device_mesh, shape):
    there = to_torch(sharded(jnp.ones(shape)), mesh=device_mesh)
    assert (there.shape, there.stride()) == (shape, torch.ones(shape).stride())
    assert to_jax(there, mesh=jax_mesh()).shape == shape


def test_axes_in_another_order_in_memory(device_mesh):
    tensor = distribute_tensor(torch.tensor(X), device_mesh, [Shard(0), WHOLE]).T
    array = to_jax(tensor, mesh=jax_mesh())
    assert array.sharding.spec == P(None, "dp")
    assert (np.asarray(array) == X.T).all()
    strided = to_jax(dtensor(torch.tensor(X)[:, ::2], device_mesh), mesh=jax_mesh())
    assert (np.asarray(strided) == X[:, ::2]).all()


def test_mesh_of_the_other_direction_is_the_same(device_mesh):
    """What comes back is what was there, whether shardings are part of types or not."""
    explicit = jax.make_mesh((1, 1), NAMES, axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    array = jax.device_put(X, NamedSharding(explicit, P("dp")))
    back = to_jax(to_torch(array, mesh=device_mesh), mesh=explicit)
    assert jax.typeof(back) == jax.typeof(array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collectives_that_are_under_way_are_waited_for(device_mesh, dtype):
    """`to_local()` gives such a tensor after `redistribute(async_op=True)`."""
    x = torch.tensor(X, dtype=dtype)
    summed = lambda: functional_collectives.all_reduce(x, "sum", (device_mesh, 0))
    one = summed()
    assert type(one) is not type(one.wait())
    for copy in (None, False):
        assert (to_torch(to_jax(summed(), copy=copy)) == x).all()
    assert (jax2torch(lambda x: 2 * x)(summed()) == 2 * x).all()
    assert (torch2jax(lambda x: x + summed())(jnp.ones(6)) == to_jax(x.float() + 1)).all()


def test_bridged_module_that_is_sharded_is_given_back_sharded():
    from torch.distributed.fsdp import fully_shard

    there, mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("dp",)), jax_mesh(("dp",), (1,))
    layer = jax2torch(Functional(lambda params, x: params["w"] @ x, {"w": jnp.asarray(X)}))
    fully_shard(layer, mesh=there)
    with pytest.raises(
        ArgumentError, match=r"DTensor, spread over several processes\. Pass `\.full_"
    ):
        to_jax(layer)
    back = to_jax(layer, mesh=mesh)
    assert back.params["w"].sharding == NamedSharding(mesh, P("dp"))
    assert (np.asarray(back.params["w"]) == X).all()


DTENSORS = {
    "needs a mesh": (lambda d: (dtensor(X, d), None), r"DTensor, spread over several processes"),
    "partial sums": (
        lambda d: (dtensor(X, d, [Partial(), WHOLE]), jax_mesh()),
        r"partial sums, .* Call \.redistribute\(placements=\.\.\.\) first",
    ),
    "against the order": (
        lambda d: (dtensor(X, d, [_StridedShard(0, split_factor=2), Shard(0)]), jax_mesh()),
        r"does not split in the order of the mesh, \['dp', 'tp'\]",
    ),
    "other names": (
        lambda d: (dtensor(X, d), jax_mesh(names=("tp", "dp"))),
        r"its mesh is \(dp=1, tp=1\) of the processes \[0\], seen from 0, but mesh= is \(tp=1, dp=",
    ),
    "other axes": (lambda d: (dtensor(X, d), jax_mesh(("dp",), (1,))), r"but mesh= is \(dp=1\) of"),
    "no names": (
        lambda d: (dtensor(X, init_device_mesh("cpu", (1, 1))), jax_mesh()),
        r"has no names of axes\. Make it with mesh_dim_names=",
    ),
    "gradient": (lambda d: (dtensor(X, d).requires_grad_(), jax_mesh()), r"Pass `\.detach\(\)`"),
    "float64": (lambda d: (dtensor(X.astype("f8"), d), jax_mesh()), r"float64 has no counterpart"),
}


@pytest.mark.parametrize("case", DTENSORS)
def test_dtensors_that_cannot_cross(device_mesh, case):
    make, text = DTENSORS[case]
    tensor, mesh = make(device_mesh)
    for context in (contextlib.nullcontext(), torch.no_grad()):
        with context, pytest.raises(ArgumentError, match=rf"leaf x cannot .*{text}"):
            to_jax({"x": tensor, "y": 1}, mesh=mesh)


def test_dtensors_in_mlx(device_mesh):
    pytest.importorskip("mlx.core")
    with pytest.raises(ArgumentError, match=r"leaf x .* `\.full_tensor\(\)`, .*to_local"):
        to_mlx({"x": dtensor(X, device_mesh)})


ARRAYS = {
    "against the order": (
        lambda: sharded(X, P(("tp", "dp"))),
        r"dimension 0 is split over \('tp', 'dp'\).* Split it over \('dp', 'tp'\) first",
    ),
    "other names": (
        lambda: sharded(X, names=("x", "y")),
        r"its mesh is \(x=1, y=1\) of .* but mesh= is \(dp=1, tp=1\) of",
    ),
    "other axes": (lambda: sharded(X, names=("dp",), shape=(1,)), r"its mesh is \(dp=1\) of"),
    "keys": (lambda: sharded(jax.random.key(0)), r"key<fry> has no counterpart"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_cannot_cross(device_mesh, case):
    make, text = ARRAYS[case]
    with pytest.raises(ArgumentError, match=rf"leaf x cannot be converted: .*{text}"):
        to_torch({"x": make(), "y": 1}, mesh=device_mesh)


def test_processes_with_different_numbers(monkeypatch):
    """Where the ranks are not the numbers that JAX gives, a shard would be of another place."""
    names = ("a", "b")
    there = init_device_mesh("cpu", (1, 1), mesh_dim_names=names)
    tensor, array = dtensor(X, there), sharded(X, names=names)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    with pytest.raises(ArgumentError, match=r"of the processes \[0\], seen from 0, but mesh= is"):
        to_torch(array, mesh=there)
    with pytest.raises(ArgumentError, match=r"no place on its mesh, .* \[0\], seen from 1"):
        to_jax(tensor, mesh=jax_mesh(names=names))


def test_sums_that_are_not_reduced_cannot_cross(device_mesh):
    explicit = jax.make_mesh((1, 1), NAMES, axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    unreduced = NamedSharding(explicit, P(unreduced={"dp"}))
    with pytest.raises(ArgumentError, match=r"not reduced over \['dp'\]. Reduce them"):
        to_torch(jax.jit(lambda x: x, out_shardings=unreduced)(X), mesh=device_mesh)


@pytest.mark.parametrize("tree", [X, "no array"])
def test_mesh_has_to_be_one_of_the_target(device_mesh, tree):
    for other in (jax_mesh(), 2, "cpu"):
        with pytest.raises(OptionError, match=r"mesh= of to_torch expects a DeviceMesh, such as"):
            to_torch(tree, mesh=other)
    for other in (device_mesh, jax_mesh().abstract_mesh, [2]):
        with pytest.raises(OptionError, match=r"mesh= of to_jax expects a jax\.sharding\.Mesh,"):
            to_jax(tree, mesh=other)


def test_mesh_has_to_be_of_the_device_of_the_shard():
    other = DeviceMesh("meta", [0], mesh_dim_names=("dp",))
    array = sharded(X, names=("dp",), shape=(1,))
    with pytest.raises(DeviceError, match=r"leaf x .* on cpu, and the mesh is one of meta devices"):
        to_torch({"x": array}, mesh=other)


def test_torch_without_its_distributed_part(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"no torch\.distributed, so no DTensors"):
        to_torch(sharded(X), mesh=object())
    assert (to_torch(X).numpy() == X).all()


def several_devices():
    """What is said of arrays on several devices of this process, and of another than the first."""
    use_loopback()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    device_mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=NAMES)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), NAMES)
    said = {}
    for name, spec in (("sharded", P("dp")), ("replicated", P())):
        x = jax.device_put(X, NamedSharding(mesh, spec))
        calls = {"torch": lambda x: to_torch({"x": x}), "mlx": lambda x: to_mlx({"x": x})}
        calls["mesh"] = lambda x: to_torch({"x": x}, mesh=device_mesh)
        for target, call in calls.items():
            said[f"{name}, {target}"] = text_of(call, x)
    third = jax_mesh(device=2)
    tensor = to_torch(jax.device_put(X, NamedSharding(third, P("dp"))), mesh=device_mesh)
    said["third, to torch"] = bool((tensor.full_tensor().numpy() == X).all())
    array = to_jax(tensor, mesh=third)
    said["third, to JAX"] = bool((np.asarray(array) == X).all()) and str(array.devices())
    said["third, not copied"] = text_of(lambda x: to_jax(x, mesh=third, copy=False), tensor)
    gathered = to_torch(jax.device_put(x, jax.devices()[0]))
    said["gathered"] = bool((gathered.numpy() == X).all())
    torch.distributed.destroy_process_group()
    return said


def text_of(call, *args):
    try:
        call(*args)
    except (ArgumentError, CopyError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_arrays_on_several_devices(monkeypatch):
    pytest.importorskip("mlx.core")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    said = fresh_process(several_devices)
    for manner, spec in (("sharded", P("dp")), ("replicated", P())):
        for target in ("torch", "mlx"):
            assert said[f"{manner}, {target}"] == (
                "ArgumentError: leaf x cannot be converted: it is a JAX array, float32[4, 6], "
                f"{manner} over 4 devices ({spec}). Gather it: `jax.device_put(x, "
                "jax.devices()[0])`. `to_torch` alone takes the shard of each process, with mesh=."
            )
        assert said[f"{manner}, mesh"] == (
            "ArgumentError: leaf x cannot be converted: it has 4 shards in this process, and "
            "each process hands over one. Start a process for each device, or gather it: "
            "`jax.device_put(x, jax.devices()[0])`."
        )
    assert said["gathered"] is said["third, to torch"] is True
    assert said["third, to JAX"] == "{CpuDevice(id=2)}"
    assert (
        "copy=False, but JAX takes memory of others on cpu:0, and the mesh has cpu:2"
        in (said["third, not copied"])
    )
