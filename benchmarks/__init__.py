"""What a call across costs, as ratios measured side by side in one process."""

import os

# The table is about the host; JAX reads this when it is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
