"""The job script: a run that a signal has ended goes back into the queue, one that failed does not."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm" / "pretrain.sbatch"


@pytest.mark.parametrize(("code", "queued"), [(75, True), (0, False), (2, False), (143, False)])
def test_job_is_queued_again_after_exit_code_75_alone(tmp_path, code, queued):
    """SLURM's programs are replaced by ones that note how they were called; `srun` ends as unipot would."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, ends in (("srun", code), ("scontrol", 0)):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\nexit {ends}\n')
        (programs / name).chmod(0o755)
    (programs / "activate").write_text("")
    settings = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "8"}
    settings |= {"PATH": f"{programs}:{os.environ['PATH']}", "UNIPOT_ENVIRONMENT": str(tmp_path)}
    assert subprocess.run(["bash", SCRIPT, "run=runs/a"], env={**os.environ, **settings}, check=False).returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "srun unipot pretrain trainer=gpu trainer.num_nodes=2 trainer.devices=4 run=runs/a"
    assert calls[1:] == (["scontrol requeue 4711"] if queued else [])
