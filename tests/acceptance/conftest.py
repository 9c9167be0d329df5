"""Makes the modules of this folder (the adapter, the models, the judge) importable by its tests, as the harness does."""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
