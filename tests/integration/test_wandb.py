"""A wandb server that does not answer costs a run some seconds and its online log, not its training."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("wandb", reason="wandb is the log that is tested")

#: in a process of its own: wandb keeps one for itself in the background
SCRIPT = """
import sys, time
from pathlib import Path
from rich.console import Console
from unipot.workflows.runs import wandb_log
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import LoggerConfig
wandb_log.SECONDS = 2.0
config = LoggerConfig(wandb=True, wandb_mode="online", wandb_project="unipot")
began = time.perf_counter()
logger, = wandb_log.wandb_loggers(config, RunFolder(Path(sys.argv[1]), resume=False), Console(width=1000))
logger.log_metrics({"loss": 1.0}, 1)
print("mode:", logger.experiment.settings.mode)
print("seconds:", time.perf_counter() - began)
"""


@pytest.mark.parametrize("key", ["0" * 40, None], ids=["server that is away", "no key"])
def test_wandb_that_does_not_work_online_logs_into_the_run_folder(tmp_path, key):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path), **({"WANDB_API_KEY": key} if key else {})}
    command = [sys.executable, "-c", SCRIPT, tmp_path]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "warning: wandb does not work online (" in ended.stdout and "mode: offline" in ended.stdout
    assert float(ended.stdout.split("seconds:")[1].split()[0]) < 60
    assert list((tmp_path / "wandb").glob("offline-run-*"))
