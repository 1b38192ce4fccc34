"""Flower ServerApp: runs the study that Flower's run names, from the coordinator's folder."""

import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.coordinator_folder import COORDINATOR_VARIABLE, CoordinatorFolder
from server.deployed_run import run_study

app = ServerApp()  # a plain assignment: Flower's own check reads the source, and does not see an annotated one


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one study; Flower starts this process, so that it learns from the environment where the folder is."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    folder = CoordinatorFolder(path=Path(os.environ[COORDINATOR_VARIABLE]))
    run_study(folder, str(context.run_config["run"]), grid)
