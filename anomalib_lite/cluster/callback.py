"""Lightning's manners in a process that it shares with Slurm, or that it has started itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_lite.cluster.job import heed_signals


class LeaveToSlurm(Callback):
    """Takes SIGTERM back from Lightning, which would end the job with exit code 0: finished, not to be run again.

    The first of a Trainer's callbacks, so that it is in place while the others work.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After Lightning has put its handler in place."""
        heed_signals()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As before training; outside Slurm, SIGTERM ends a test at once: Lightning would only take note of it."""
        if not heed_signals() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until Lightning puts back what was there

    def __reduce__(self) -> tuple[Callable[[], LeaveToSlurm], tuple[()]]:
        """A copy in a process that Lightning starts makes that process as quiet as this one."""
        return _in_other_process, ()


def _in_other_process() -> LeaveToSlurm:
    from anomalib_lite.run import quieten  # which imports this module

    quieten()
    return LeaveToSlurm()
