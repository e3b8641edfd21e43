"""The precision of floating-point dtypes."""

import numpy as np


def machine_epsilon(dtype: np.dtype) -> float:
    """Return the distance from 1 to the next larger number of a real or complex dtype.

    `finfo` of NumPy 2.1 computes subnormal numbers when it is first asked, and warns in threads
    that round these to zero, as XLA's do.
    """
    return float(np.spacing(np.real(np.ones((), dtype))))
