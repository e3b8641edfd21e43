"""The exceptions that bridge raises itself."""


class BridgeError(Exception):
    """The base class of the errors that bridge raises itself."""


class NoValuesError(BridgeError, TypeError):
    """A tracer that reaches code which needs the values of an array."""


class NoRuleError(BridgeError, NotImplementedError):
    """A transformation that an Op has no rule for."""


class UnknownFrameworkError(BridgeError, LookupError):
    """A name that is of no framework that bridge knows."""


class MissingFrameworkError(BridgeError, ImportError):
    """A framework that bridge knows, but that is not installed."""


class OutdatedFrameworkError(BridgeError, ImportError):
    """A framework whose installed version is older than bridge needs."""


class ArgumentError(BridgeError, TypeError):
    """An argument or result that cannot cross: its type, dtype or layout."""


class OptionError(BridgeError, ValueError):
    """An option with a value it does not take."""


class CopyError(BridgeError, ValueError):
    """An array that cannot be shared, where `copy=False` asks for that."""


class RangeError(BridgeError, OverflowError):
    """Integers that are too large for the dtype that the other framework computes in."""


class DeviceError(BridgeError, RuntimeError):
    """A device that the other framework cannot reach."""
