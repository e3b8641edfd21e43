"""Programs that were saved by another process, and call bridged functions."""

from bridge import _registry
from bridge._core.errors import OptionError


def register_calls(framework: str) -> None:
    """Let programs that another process has saved call bridged functions in this one.

    A framework loads a program before it calls any function in it, and has to know by then what a
    call of a bridged function is. The first call of any function in this process tells it too;
    wrapping alone does not, since that imports nothing.

    Args:
        framework: The framework of the program, `"jax"` or `"torch"`.

    Raises:
        OptionError: If it is another framework.
        MissingFrameworkError: If it is not installed.

    Example:
        >>> import bridge
        >>> bridge.register_calls("jax")
    """
    saving = [name for name in _registry.frameworks() if _registry.outline(name).saves_programs]
    if framework not in saving:
        names = " or ".join(f'"{name}"' for name in saving)
        raise OptionError(f"register_calls({framework!r}): pass {names}, whose programs are saved.")
    _registry.target(framework)
