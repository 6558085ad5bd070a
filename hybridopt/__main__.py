"""``python -m hybridopt``: the same program as the console script ``hybridopt``."""

from __future__ import annotations

import sys

from hybridopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
