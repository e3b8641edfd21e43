"""The classes of modules of JAX libraries, as far as a type checker can tell without these."""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

if TYPE_CHECKING:
    from bridge._calls.functional import Functional


class _WithFields(Protocol):
    """A dataclass, as modules of Equinox and Flax linen are."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class _WithModes(Protocol):
    """A module of Flax NNX."""

    def train(self, **attributes: Any) -> None: ...

    def eval(self, **attributes: Any) -> None: ...


JaxModule: TypeAlias = "Functional | _WithFields | _WithModes"
