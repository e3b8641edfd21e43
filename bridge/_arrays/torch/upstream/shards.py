"""Private names of torch about what is spread over processes."""
# pyright: reportPrivateUsage=false

from typing import Any


def has_default_order(x: Any) -> bool:
    """Return True if dimensions that are split over several mesh axes follow the mesh's order.

    Without the name, which no public function sets, they do.
    """
    order = getattr(getattr(x, "_spec", None), "shard_order", None) or ()
    return all(list(entry.mesh_dims) == sorted(entry.mesh_dims) for entry in order)


def wait_for_collective(x: Any) -> Any:
    """Return `x`, or what a collective that is under way gives: `to_local` may return either.

    Known by its method, since its class has no public name.
    """
    return x.wait() if hasattr(x, "wait") else x
