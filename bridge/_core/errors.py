"""Every exception bridge raises on purpose."""


class BridgeError(Exception):
    """Base class of the errors bridge raises itself."""


class NoValuesError(BridgeError, TypeError):
    """A tracer reached code that needs the values of an array."""


class NoRuleError(BridgeError, NotImplementedError):
    """An Op was transformed in a way nobody gave it a rule for."""


class UnknownFrameworkError(BridgeError, LookupError):
    """A name that is no framework bridge knows."""


class MissingFrameworkError(BridgeError, ImportError):
    """A framework bridge knows, which is not installed."""


class OutdatedFrameworkError(BridgeError, ImportError):
    """A framework that is installed in a version older than bridge needs."""


class ArgumentError(BridgeError, TypeError):
    """An argument or result that cannot cross: its type, dtype or layout."""


class OptionError(BridgeError, ValueError):
    """An option with a value it does not take."""


class CopyError(BridgeError, ValueError):
    """An array that cannot be shared, where `copy=False` asks for that."""


class RangeError(BridgeError, OverflowError):
    """Integers too large for the dtype the other framework computes in."""


class DeviceError(BridgeError, RuntimeError):
    """A device the other framework cannot reach."""
