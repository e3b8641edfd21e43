"""Why a call is traced again: what differs from the traces that there are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge._calls.plan import LeafInfo, Plan

_MOST_SHOWN = 3


def explain_retrace(
    key: tuple[Any, ...],
    infos: Sequence[LeafInfo],
    plans: Mapping[Any, Plan],
    describe_context: Callable[[Any], Mapping[str, Any]],
) -> str:
    """Say what of the key of a call differs from the plan most like it."""
    if not plans:
        return "the first call traces it"
    found = [_differences(key, infos, *item, describe_context) for item in plans.items()]
    least = min(found, key=len)
    return f"this call traces again, since {' and '.join(least[:_MOST_SHOWN])}" + (
        f" and {len(least) - _MOST_SHOWN} more differ" if len(least) > _MOST_SHOWN else ""
    )


def _differences(
    key: tuple[Any, ...],
    infos: Sequence[LeafInfo],
    known: tuple[Any, ...],
    plan: Plan,
    describe_context: Callable[[Any], Mapping[str, Any]],
) -> list[str]:
    structure, context, *signatures = key
    if isinstance(known[0], str):  # `PlanCache.rebuild`
        return ["the other trace was made for a loaded program"]
    known_structure, known_context, *known_signatures = known
    differences = _of_contexts(*map(describe_context, (context, known_context)))
    if context != known_context and not differences:
        differences = ["settings around the call are others"]
    if structure != known_structure:
        counts = len(signatures), len(known_signatures)
        of = "" if counts[0] == counts[1] else f", with {counts[0]} leaves instead of {counts[1]}"
        return [*differences, f"the structure of the arguments is another{of}"]
    texts = _texts(known_signatures, plan)
    for info, signature, other, text in zip(
        infos, signatures, known_signatures, texts, strict=True
    ):
        if signature != other:
            differences.append(f"{info.name} is {_text(info)} and was {text}")
    return differences


def _of_contexts(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {value} and was {then[name]}"
        for name, value in now.items()
        if name in then and then[name] != value
    ]


def _texts(signatures: Sequence[Any], plan: Plan) -> list[str]:
    """Return what the leaves of a plan were, as text."""
    specs = dict(zip((i for i, _ in plan.array_leaves), plan.primals, strict=True))
    return [
        _spec_text(specs[i]) if i in specs else _static_text(signature)
        for i, signature in enumerate(signatures)
    ]


def _text(info: LeafInfo) -> str:
    return _spec_text(info.spec) if info.spec else _static_text(info.signature)


def _spec_text(spec: Any) -> str:
    weak = "a number, " if spec.weak_type else ""
    return f"{weak}{spec}{'' if spec.device == 'cpu' else f' on {spec.device}'}"


def _static_text(signature: Any) -> str:
    """Return the value of a static leaf, which is part of its signature."""
    return str(signature[1] if isinstance(signature, tuple) else signature)
