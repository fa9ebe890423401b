"""One job of a sweep: its status on disk from start to end, and the sweep's page after it."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from anomalib_lite.console import explain, is_users, unquote_raw
from anomalib_lite.report.files import replace_file
from anomalib_lite.sweeping.devices import use_own_device
from anomalib_lite.sweeping.folders import key_of, swept_overrides
from anomalib_lite.sweeping.key import job_key
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

STATUS = "status.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
PAGE_AGE = 60  # seconds after which a job that begins renews the page


class JobFailed(InputError):
    """Why a job has failed, in one line; unlike some exceptions it can travel between processes."""


class SweepStopped(BaseException):
    """No further job of this sweep can succeed; passes Hydra, which goes on after any `Exception`."""


def run_job(cfg: DictConfig, job: Callable[[DictConfig], float], *, reused: Sequence[str] = ()) -> float:
    """Run a sweep's job, or give its value where it is done already; `status.json` in its folder says how far it is.

    Args:
        cfg: the job's config.
        job: gives the value that a sweeper maximises.
        reused: names of the stages that were there already; read once the job has ended.

    Raises:
        JobFailed: whatever goes wrong in the job. A traceback, where one is due, is in the log.
        SweepStopped: with a full disk, where the sweep's other jobs are to run in this process.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    began = time.perf_counter()
    status: dict[str, Any] = {
        "state": "running",
        "overrides": swept_overrides(hydra.overrides.task, hydra.job.config.override_dirname.exclude_keys),
        "key": None,
        "value": None,
        "error": None,
        "seconds": None,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "reused": [],
        "command": lone_command(hydra.overrides.task),
    }
    try:
        status["key"] = job_key(cfg)
        earlier = read_status(folder)
        if is_done(earlier, status["key"]):
            log.info("done already: %s", folder)
            return float("nan") if earlier["value"] is None else earlier["value"]
        if earlier.get("key") != status["key"]:
            _forget_results(folder)
        _write_status(folder, status)
        _renew_page(folder.parent, PAGE_AGE)
        use_own_device(cfg)
        value = float(job(cfg))
        end = {"state": "done", "value": value if math.isfinite(value) else None}
        status |= end | {"seconds": _since(began), "reused": list(reused)}
        _write_status(folder, status)
        _renew_page(folder.parent)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:  # the system names files only in an open
            error.filename = str(folder)
        line = _one_line(error)
        log.error("failed: %s", line, exc_info=None if is_users(error) else error)
        status |= {"state": "failed", "error": line, "seconds": _since(began), "reused": list(reused)}
        with suppress(OSError):  # the same full disk
            _write_status(folder, status)
            _renew_page(folder.parent)
        if is_full_disk(error) and in_this_process(hydra):
            raise SweepStopped(line) from None
        raise JobFailed(line) from error
    return value


def read_status(folder: Path) -> dict[str, Any]:
    """A job's `status.json`; empty where there is none, or where it is damaged."""
    try:
        status = json.loads((folder / STATUS).read_text())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def is_done(status: dict[str, Any], key: str) -> bool:
    """Whether a job with this key has ended well."""
    return status.get("state") == "done" and status.get("key") == key and "value" in status


def in_this_process(hydra: Any) -> bool:
    """Whether a sweep's jobs run one after the other in the process of the sweep; takes Hydra's config."""
    return str(hydra.launcher._target_).endswith(".BasicLauncher")


def forget_other(folder: Path, cfg: DictConfig) -> None:
    """Take away what an earlier job has left here that is not this one: of other pictures, or another version."""
    status = read_status(folder)
    if status and status.get("key") != job_key(cfg):
        (folder / STATUS).unlink(missing_ok=True)
        _forget_results(folder)


def note_failure(folder: Path, overrides: Sequence[str], error: BaseException | None) -> None:
    """Say in `status.json` that a job has failed which could not say so itself."""
    status = read_status(folder)
    if status.get("state") in ("done", "failed"):
        return
    line = "ended without a result" if error is None else _one_line(error)
    blank = {"overrides": list(overrides), "key": None, "value": None, "seconds": None, "reused": []}
    with suppress(OSError):
        _write_status(folder, blank | status | {"state": "failed", "error": line})


def lone_command(overrides: Sequence[str]) -> str:
    """The command line that runs one job of a sweep alone.

    >>> lone_command(["data.root='my parts'", "sweep=encoding_size", "model.latent_dim=16", "sweep_name=try"])
    "anomalib-lite-train 'data.root=my parts' sweep=encoding_size model.latent_dim=16 hydra.mode=RUN"
    """
    kept = [unquote_raw(override) for override in overrides if key_of(override) != "sweep_name"]
    # the settings that a sweep's file brings are wanted, its grid is not
    alone = ["hydra.mode=RUN"] if any(key_of(override) == "sweep" for override in overrides) else []
    return shlex.join(["anomalib-lite-train", *kept, *alone])


def is_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk or quota is what lies behind an exception."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def write_page(folder: Path, *, curves: bool = False) -> None:
    """The sweep's table and page from its job folders, and with `curves` the encoding-size study as a picture.

    Whatever is wrong with them is worth a line, not a job; only a full disk is raised.
    """
    from anomalib_lite.report.sweep import write_curves, write_sweep  # not at the start of every command

    try:
        write_sweep(folder)
        if curves:
            write_curves(folder)
    except Exception as error:
        if is_full_disk(error):
            raise
        log.warning("%s: the sweep's page could not be written: %s", folder, error)


def _renew_page(folder: Path, age: float = 0) -> None:
    try:
        old = time.time() - (folder / "sweep.html").stat().st_mtime
    except OSError:
        old = math.inf
    if old >= age:
        write_page(folder)


def _write_status(folder: Path, status: dict[str, Any]) -> None:
    replace_file(folder / STATUS, json.dumps(status, indent=1).encode())


def _forget_results(folder: Path) -> None:
    """Another job's, of other data or another version: neither to be shown nor to be gone on from."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in ("metrics.json", "report.html", "cuts.html"):
        (folder / name).unlink(missing_ok=True)


def _one_line(error: BaseException) -> str:
    if isinstance(error, Exception) and is_users(error):
        return explain(error, "train", HydraConfig.get().overrides.task if HydraConfig.initialized() else [])
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)
