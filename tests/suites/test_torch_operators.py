"""Every operator in torch's own records through the bridge: values, derivatives and batches."""

import warnings

import pytest

from tests.suites import records, truth
from tests.suites.in_jax import Jax
from tests.suites.in_mlx import Mlx
from tests.suites.judging import RAISES, WRONG, Verdict, judged
from tests.suites.reporting import record

pytestmark = pytest.mark.suites

WAYS = {"torch2jax": Jax("ffi"), 'torch2jax(lower="xla")': Jax("xla"), "torch2mlx": Mlx()}
RECORDS = records.databases()


@pytest.mark.parametrize("operator", RECORDS)
@pytest.mark.parametrize("way", WAYS, ids=["ffi", "xla", "mlx"])
def test_operator_equals_torch(way, operator):
    verdicts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in records.dtypes(RECORDS[operator]):
            question = asked(RECORDS[operator], WAYS[way].dtypes.get(dtype, dtype))
            name = str(dtype).removeprefix("torch.")
            answers = judged(question, WAYS[way]) if question else ()
            verdicts += [Verdict(operator, name, *answer) for answer in answers]
    record(way, verdicts)
    assert not [verdict for verdict in verdicts if verdict.outcome in (WRONG, RAISES)]


def asked(operator, dtype):
    """A question about an operator; `None` if it has no sample, or draws random numbers."""
    if dtype not in operator.supported_dtypes("cpu"):
        return None
    sample = records.sample(operator, dtype)
    if sample is None or not sample.tensors or truth.draws(sample):
        return None
    return truth.asked(sample)
