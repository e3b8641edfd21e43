"""The Op of a function that draws random numbers, before it has a seed."""

from bridge._core.op import Op, Traits


def unseeded_op(name: str, framework: str) -> Op:
    """Make an Op that is not to be called: a target adds a seed and makes another, or refuses."""
    return Op(
        name=name,
        framework=framework,
        call=lambda *_: (),
        output_specs=lambda *_: (),
        traits=Traits(uses_global_rng=True),
    )
