"""Weights & Biases beside `metrics.csv`; a server that does not answer does not keep a run from training."""

from __future__ import annotations

from lightning.pytorch.loggers import Logger
from rich.console import Console

from unipot.errors import InputError
from unipot.training.distributed import is_main_process
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import LoggerConfig

#: s that the server has to answer in
SECONDS = 10.0


def wandb_loggers(config: LoggerConfig, run: RunFolder, console: Console) -> list[Logger]:
    """The logger that the configuration asks for, or none; it writes into the run folder where the server cannot be reached.

    Raises:
        ValueError: `wandb_mode` is not known, or the package is not installed.
    """
    if not config.wandb:
        return []
    if config.wandb_mode not in ("offline", "online"):
        raise InputError(f"logger.wandb_mode is {config.wandb_mode!r}; use offline or online")
    try:
        import wandb
    except ImportError as error:
        raise InputError("logger.wandb is true, but wandb is not installed: pip install wandb") from error
    from lightning.pytorch.loggers import WandbLogger

    own = {"project": config.wandb_project, "name": run.path.name, "save_dir": str(run.path)}
    if config.wandb_mode == "online":
        online = WandbLogger(**own, settings=wandb.Settings(init_timeout=SECONDS))
        try:
            _ = online.experiment if is_main_process() else None
            return [online]
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            said = f"warning: wandb does not work online ({reason}); this run is logged offline, and `wandb sync` sends it later from"
            console.print(f"{said} {run.path / 'wandb'}", style="yellow", highlight=False, markup=False)
    return [WandbLogger(**own, offline=True, mode="offline")]
