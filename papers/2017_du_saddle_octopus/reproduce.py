"""Du et al. 2017: hybridopt paper 2017_du_saddle_octopus, or this file with the same options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import main

if __name__ == "__main__":
    sys.exit(main(__file__, ["du2017_octopus", "du2017_octopus_escape"], quick=["task.problem=octopus_5", "seed=0"]))
