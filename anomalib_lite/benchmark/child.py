"""The process of one cell: a training run that ends with the comparison it belongs to."""

from __future__ import annotations

import os
import signal
import threading


def main() -> int:
    """`anomalib-lite-train` with this process's arguments; returns its exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from anomalib_lite.run import train_command  # after the thread: importing torch takes seconds

    return train_command()


def _end_with_parent() -> None:
    # our standard input is a pipe that only the parent writes to: it closes when the parent is gone, killed or not
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)
