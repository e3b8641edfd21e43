"""The explanation of a call of a bridged function, which is not made."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.call_recorder import recorded_calls
from bridge._calls.crossings import Transfer
from bridge._calls.explanation import Explanation, Saving, Traces
from bridge._calls.plan import LeafInfo, Plan
from bridge._calls.plan_cache import PlanCache
from bridge._calls.planner import Planner
from bridge._calls.random_keys import KeyArgument
from bridge._calls.retrace_reasons import explain_retrace
from bridge._core import pytree
from bridge._core.description import Description
from bridge._core.errors import NoRuleError
from bridge._core.op import Op, Specs
from bridge._core.pure_module import PureModule
from bridge._core.saving_forward import SavingChoice
from bridge._core.spec import ArraySpec

_EXAMPLES = "Arrays without values, as in a trace, are taken for new ones: dense and aligned."


@dataclasses.dataclass(frozen=True, eq=False)
class Explainer:
    """Explains calls of one bridged function.

    Attributes:
        planner: Makes its plans.
        plans: Those that it has.
        key_argument: Its argument `rng`.
        normalize: Returns arguments as they are flattened: static ones wrapped, keys as data.
        callers: The class whose calls are looked for in the function.
    """

    planner: Planner
    plans: PlanCache
    key_argument: KeyArgument
    normalize: Callable[[Any, Any], tuple[Any, Any]]
    callers: type

    def explain_call(self, args: Any, kwargs: Any) -> Explanation:
        """Explain a call with these arguments."""
        return self.explain(*self.flatten(args, kwargs))

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """Return the leaves of the arguments and their structure, as a call has them."""
        normalized = self.normalize(args, kwargs)
        return pytree.flatten(normalized, _registry.pytree_node_functions)

    def explain(self, leaves: Sequence[Any], structure: Any) -> Explanation:
        """Explain a call with these leaves, among which specs may stand for arrays."""
        planner = self.planner
        with planner.target.computing_now():
            arrays = self._with_examples(leaves)
            infos = planner.describe_leaves(arrays, structure)
            with recorded_calls(self.callers) as calls:
                plan = planner.make_plan(arrays, structure, infos)
            if plan.needs_seed:
                args, kwargs = pytree.unflatten(structure, arrays)
                kwargs = self.key_argument.add_seed(args, kwargs, plan.device, drawn=False)
                return self.explain_call(args, kwargs)
            key = self.plans.key(arrays, structure, infos)
            plan = self.plans.stored().get(key, plan)  # with the derivatives made so far
            call = Transfer(plan, arrays, infos, planner.frameworks, planner.target)
            explanation = self._describe(call, self._traces(key, infos))
        inner = tuple(x.explainer.explain(x.leaves, x.structure) for x in calls)
        has_examples = any(x is not y for x, y in zip(leaves, arrays, strict=True))
        remarks = (*explanation.remarks, *([_EXAMPLES] if has_examples else ()))
        return dataclasses.replace(explanation, remarks=remarks, calls=inner)

    def describe_argument(self, leaf: Any) -> Any:
        """Return a leaf of arguments, or its spec if it is an array, which may have no values."""
        if self.planner.target.needs_staging(leaf):
            return self.planner.target.staged_signature_and_spec(leaf)[1]
        arrays = _registry.target_arrays(self.planner.frameworks[1])
        return arrays.target_spec(leaf) if arrays.is_array(leaf) else leaf

    def _with_examples(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves with zeros in the places of arrays that have no values."""
        arrays = _registry.target_arrays(self.planner.frameworks[1])
        examples = list(leaves)
        for i, leaf in enumerate(leaves):
            spec = leaf if isinstance(leaf, ArraySpec) else None
            if arrays.is_array(leaf) and arrays.address(leaf) is None:
                spec = self.describe_argument(leaf)
            if spec is not None and spec.device != "meta":
                examples[i] = arrays.example(spec)
        return examples

    def _traces(self, key: Any, infos: Sequence[LeafInfo]) -> Traces:
        plans, options = self.plans.stored(), self.planner.options
        if not options.get("jit", True):
            return Traces(0, is_known=False, reason="nothing is traced: it runs on each call")
        if key in plans:
            return Traces(len(plans), is_known=True, reason="")
        context = self.planner.source.describe_context
        return Traces(
            len(plans), is_known=False, reason=explain_retrace(key, infos, plans, context)
        )

    def _describe(self, call: Transfer, traces: Traces) -> Explanation:
        op, planner = call.plan.op, self.planner
        description = op.traits.description() if op.traits.description else _UNKNOWN
        outputs = _known_outputs(op)
        names = _result_names(call.plan, outputs)
        arguments, results = call.describe(description, outputs, names)
        remarks = list(description.remarks)
        if outputs is None:
            remarks.append("What it returns is not known before it is called.")
        return Explanation(
            name=planner.name,
            direction="2".join(planner.frameworks),
            options=_options(planner),
            device=_compute_device(planner, call.plan.device),
            arguments=arguments,
            results=results,
            saving=self._saving(call, description, outputs, names),
            traces=traces,
            language=description.language,
            program=description.program(),
            remarks=tuple(remarks),
        )

    def _saving(
        self,
        call: Transfer,
        description: Description,
        outputs: Specs | None,
        result_names: Sequence[str],
    ) -> Saving:
        names = [info.name for info in call.infos if info.spec]
        argnums = tuple(i for i, spec in enumerate(call.plan.primals) if spec.differentiable)
        if isinstance(self.planner.fn, PureModule):  # its buffers have no gradients
            argnums = tuple(i for i in argnums if not names[i].startswith("buffers["))
        choice = SavingChoice(argnums, (), None)
        if outputs is not None:
            xs = call.plan.select_arrays(call.leaves)
            try:
                choice = self.planner.target.choose_saving(call.plan.op, xs, argnums)
            except NoRuleError as error:
                return Saving("none", str(error), tuple(names[i] for i in argnums), is_wanted=True)
        reason = choice.reason or description.residual_reason(choice.argnums, choice.outnums)
        by, pair = tuple(names[i] for i in choice.argnums), choice.pair
        if pair is None:
            return Saving("recompute", reason, by, choice.is_wanted, arguments=tuple(names))
        if pair.strategy != "recompute" and not pair.holds_values:
            reason += "; what it keeps is a graph of its framework, which tells no size"
        return Saving(
            strategy=pair.strategy,
            reason=reason,
            by=by,
            is_wanted=choice.is_wanted,
            arguments=tuple(names[i] for i in pair.saved_primals),
            results=tuple(result_names[i] for i in pair.saved_outputs),
            arrays=pair.forward.output_specs()[pair.output_count :] if pair.holds_values else (),
        )


_UNKNOWN = Description(language="code that is not told")


def _known_outputs(op: Op) -> Specs | None:
    """Return the specs of the outputs, None if the function would have to run for them."""
    knows = op.traits.knows_outputs
    if op.traits.observed_specs is not None or (knows and not knows()):
        return None
    return op.output_specs()


def _result_names(plan: Plan, outputs: Specs | None) -> list[str]:
    if outputs is None:
        return []
    structure = plan.flat.result_structure
    if structure is None:
        return [f"result[{i}]" for i in range(len(outputs))]
    return [pytree.format_path(["result", *path]) for path in pytree.paths(structure)]


def _compute_device(planner: Planner, device: str) -> str:
    """Return the device that Ops compute on, for arrays on `device`."""
    is_meta = device == "meta"
    return device if is_meta else planner.source.choose_compute_device(device, planner.device)


def _options(planner: Planner) -> str:
    options = planner.options | ({"device": planner.device} if planner.device else {})
    shown = {k: value for k, value in options.items() if value is not None and k != "counters"}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())
