"""Commands of SLURM that do what they are asked for on this machine: enough of it for submitit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SBATCH = """
import os, re, subprocess, sys
home = os.path.dirname(os.path.abspath(__file__))
script = open(sys.argv[1]).read()
number = str(1000 + len([name for name in os.listdir(home) if name.endswith(".script")]))
path = os.path.join(home, number + ".script")  # as SLURM does: submitit moves its own
open(path, "w").write(script)
array = re.search(r"#SBATCH --array=0-(\\d+)", script)
for index in range(int(array.group(1)) + 1) if array else [None]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    env |= {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0"}
    if index is not None:
        env |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["bash", path], env=env, start_new_session=True, **silent)
    name = number if index is None else f"{number}_{index}"
    open(os.path.join(home, name + ".pid"), "w").write(str(process.pid))
print("Submitted batch job", number)
"""

_SRUN = """
import os, sys, time
arguments = sys.argv[1:]
number, task = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "")
while arguments[0].startswith("-"):
    flag = arguments.pop(0)
    if flag in ("--output", "--error"):
        path = arguments.pop(0).replace("%A", number).replace("%a", task).replace("%j", number).replace("%t", "0")
        for _ in range(100):  # submitit makes it once sbatch has told the number
            if os.path.isdir(os.path.dirname(path)):
                break
            time.sleep(0.1)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if flag == "--output" else 2)
os.execvp(arguments[0], arguments)
"""

_SACCT = """
import os
home = os.path.dirname(os.path.abspath(__file__))
print("JobID|State|NodeList")
for name in sorted(os.listdir(home)):
    if name.endswith(".pid"):
        pid = open(os.path.join(home, name)).read()
        try:
            state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"
        print(f"{name[:-4]}|{'COMPLETED' if state == 'Z' else 'RUNNING'}|node")
"""

_SCANCEL = """
import os, signal, sys
home = os.path.dirname(os.path.abspath(__file__))
os.killpg(int(open(os.path.join(home, sys.argv[1] + ".pid")).read()), signal.SIGTERM)
"""


def install(directory: Path) -> str:
    """Writes the commands into a directory and returns a PATH that begins with it."""
    directory.mkdir()
    for name, text in {"sbatch": _SBATCH, "srun": _SRUN, "sacct": _SACCT, "scancel": _SCANCEL}.items():
        command = directory / name
        command.write_text(f"#!{sys.executable}\n{text}")
        command.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"
