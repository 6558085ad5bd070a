"""Rathore et al. 2024: hybridopt paper 2024_rathore_pinn_optimizers, or this file with the same options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import main

if __name__ == "__main__":
    sys.exit(
        main(
            __file__,
            ["rathore2024_convection", "rathore2024_reaction"],
            quick=["task.points=50", "task.width=8", "seed=0"],
        )
    )
