"""What Slurm's queue says of jobs: by squeue alone, since many clusters keep no accounts (sacct)."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

# squeue's words for a job that has ended; of every other one a result can still come
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
FORGOTTEN = "no longer known to Slurm"  # which forgets a job some minutes after its end
# why a job waits that no time will help: see `squeue`'s manual, JOB REASON CODES
STUCK = ("AssocM", "BadConstraints", "DependencyNever", "InvalidAccount", "JobHeld", "PartitionTimeLimit",
         "PartitionNodeLimit", "QOSMax", "launch failed")  # fmt: skip


def job_states(job_ids: Iterable[str]) -> dict[str, tuple[str, str]] | None:
    """State and reason of every job that Slurm knows; None while Slurm does not answer.

    Args:
        job_ids: as Slurm writes them, `12` or, in an array, `12_3`.
    """
    arrays = sorted({job_id.partition("_")[0] for job_id in job_ids})
    if not arrays:
        return {}
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T|%r",
        f"--jobs={','.join(arrays)}",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("cannot ask Slurm: %s", error)
        return None
    if answer.returncode != 0:
        if "Invalid job id" in answer.stderr:  # of a single job that is long over
            return {}
        log.warning("cannot ask Slurm: %s", answer.stderr.strip())
        return None
    return read_states(answer.stdout)


def read_states(text: str) -> dict[str, tuple[str, str]]:
    """State and reason by job from squeue's lines.

    >>> read_states("12_0|RUNNING|None\\n12_1|PENDING|(Resources)\\n")
    {'12_0': ('RUNNING', 'None'), '12_1': ('PENDING', 'Resources')}
    """
    fields = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {job_id: (state, reason.strip("()")) for job_id, state, reason in fields}


class Watch:
    """Tells which jobs are over for good, by looking again and again.

    A job that is being queued again shows an end for a moment: only one that lasts counts.

    Args:
        settle_s: seconds that an end must have lasted.
        look: gives the states, as `job_states` does.
        clock: in seconds.
    """

    def __init__(
        self,
        *,
        settle_s: float,
        look: Callable[[Iterable[str]], dict[str, tuple[str, str]] | None] = job_states,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settle_s = settle_s
        self.look = look
        self.clock = clock
        self._since: dict[str, float] = {}
        self._ends: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()

    def over(self, job_ids: Iterable[str]) -> dict[str, str]:
        """The jobs that will bring nothing any more, each with Slurm's last word."""
        waiting = list(job_ids)
        states = self.look(waiting)
        if states is None:  # a controller that does not answer has ended nothing
            self._since.clear()
            return {}
        now = self.clock()
        for job_id in waiting:
            state, reason = states.get(job_id, (FORGOTTEN, ""))
            if state not in ENDED and state != FORGOTTEN:
                self._since.pop(job_id, None)
                self._tell(job_id, reason)
                continue
            self._since.setdefault(job_id, now)
            if state != FORGOTTEN or job_id not in self._ends:
                self._ends[job_id] = state
        return {
            job_id: self._ends[job_id]
            for job_id in waiting
            if job_id in self._since and now - self._since[job_id] >= self.settle_s
        }

    def _tell(self, job_id: str, reason: str) -> None:
        array = job_id.partition("_")[0]
        if reason.startswith(STUCK) and (array, reason) not in self._told:
            self._told.add((array, reason))
            log.warning("Slurm job %s may wait for ever: %s", job_id, reason)
