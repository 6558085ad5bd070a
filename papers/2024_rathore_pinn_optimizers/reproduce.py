"""Runs everything of this folder, or what of it is missing, and writes results.json, figure.png and README's tables.

python papers/2024_rathore_pinn_optimizers/reproduce.py [OVERRIDE ...]

Overrides (``seed=0``, ``launcher.slots=1``, ``out=DIR``) go to `hybridopt run`.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import make_figures  # noqa: E402
from common import reproduce  # noqa: E402

EXPERIMENTS = ["rathore2024_convection", "rathore2024_reaction"]

if __name__ == "__main__":
    sys.exit(reproduce(HERE, EXPERIMENTS, make_figures, sys.argv[1:]))
