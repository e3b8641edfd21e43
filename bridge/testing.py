"""Checks that a user can run on functions of their own, and what tests of them need."""

from bridge._testing.backend import Backend as Backend, backend as backend
from bridge._testing.gradients import check_gradients as check_gradients
from bridge._testing.numerical import numerical_gradient as numerical_gradient
from bridge._testing.rule_check import check_rule as check_rule
from bridge._testing.same import Report as Report, check_same as check_same

for _public in (
    Backend,
    backend,
    check_gradients,
    check_rule,
    check_same,
    numerical_gradient,
    Report,
):
    _public.__module__ = __name__
