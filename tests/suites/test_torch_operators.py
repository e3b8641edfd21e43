"""Every operator in torch's own records through the bridge: values, derivatives and batches."""

import pytest

from tests.suites import samples
from tests.suites.judging import RAISES, WRONG, verdicts
from tests.suites.reporting import record
from tests.suites.ways import WAYS

pytestmark = pytest.mark.suites

RECORDS = samples.databases()


@pytest.mark.parametrize("operator", RECORDS)
@pytest.mark.parametrize("way", WAYS)
def test_operator_equals_torch(way, operator):
    found = list(verdicts(operator, RECORDS[operator], WAYS[way]))
    record(way, found)
    assert not [verdict for verdict in found if verdict.outcome in (WRONG, RAISES)]
