"""Write the code of README.md to a folder, with what checks its types and those of the examples."""

import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
folder = pathlib.Path(sys.argv[1])
blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
(folder / "readme.py").write_text("\n".join(blocks))
others = [os.path.relpath(ROOT / path, folder) for path in ("examples", "tests/typed.py")]
settings = {
    "include": ["readme.py", *others],
    # Their simulators are installed by `nox -s quantum` only.
    "ignore": [os.path.relpath(ROOT / f"examples/{x}.py", folder) for x in ("estimator", "pulses")],
    "extraPaths": [os.path.relpath(ROOT, folder)],
    "typeCheckingMode": "standard",
    # torch re-exports names, documented ones too, without saying so to type checkers.
    "reportPrivateImportUsage": False,
    # torch, JAX and MLX leave the types of attributes open, or have no stubs for them.
    "reportMissingTypeStubs": False,
    "reportPossiblyUnboundVariable": False,
}
(folder / "pyrightconfig.json").write_text(json.dumps(settings))
