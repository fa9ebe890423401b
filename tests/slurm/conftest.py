"""A real Slurm of one node, started for the tests and stopped after them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")  # Debian's names
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# Jobs in partition `high` preempt those in `low`. More processors are declared than there are, so that jobs wait only
# for what a test makes them wait for.
CONFIG = """
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,requeue_setup_env_fail
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{user_signal}
JobRequeue=1
KillWait=2
MinJobAge=300
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=16 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=2
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


@dataclass
class Cluster:
    """One node on this machine, without accounts: as little as a cluster may offer."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ports: list[int] = field(default_factory=lambda: _free_ports(2))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this cluster and no other."""
        path = f"{os.environ['PATH']}:{SYSTEM_PATH}"
        return {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": path,
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.configure()
        munge = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._run("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *munge)
        _until((self.folder / "munge.socket").exists, "munged to answer")
        self._run("slurmctld", "-D", "-i")
        self._run("slurmd", "-D", "-N", "localhost")
        _until(
            lambda: self.ask("sinfo -h -N -p main -o %t") in ("idle", "mix"),
            f"a node; see {self.folder}/*.out",
        )

    def configure(self, *, user_signal: bool = False) -> None:
        """Write the configuration, and have it read where Slurm runs already.

        Args:
            user_signal: send a job that is preempted the signal that it asked for, not SIGTERM.
        """
        parameters = "SlurmctldParameters=preempt_send_user_signal" if user_signal else ""
        text = CONFIG.format(folder=self.folder, ports=self.ports, user_signal=parameters)
        (self.folder / "slurm.conf").write_text(text)
        if self.processes:
            self.ask("scontrol reconfigure")

    def ask(self, command: str, *, check: bool = False) -> str:
        """What a Slurm command prints."""
        answer = subprocess.run(
            command.split(), env=self.environment, capture_output=True, text=True, timeout=30, check=check
        )
        return answer.stdout.strip()

    def states(self) -> dict[str, str]:
        """State by job, of all that Slurm remembers."""
        lines = self.ask("squeue -h -r -t all -o %i|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def stop(self) -> None:
        if len(self.processes) > 1:
            self.ask("scancel --user=root")
            with suppress(AssertionError):
                _until(lambda: not self.ask("squeue -h"), "an empty queue", seconds=15)
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def _run(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)


def _until(condition: Callable[[], object], what: str, *, seconds: float = 60) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _install() -> None:
    """Slurm from Debian's packages, in a container; or a skip that says what is missing."""
    path = f"{os.environ['PATH']}:{SYSTEM_PATH}"
    if os.geteuid() != 0:
        pytest.skip("a Slurm of our own needs root")
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if not missing:
        return
    if (
        shutil.which("apt-get") is None or Path("/run/systemd/system").exists()
    ):  # not onto somebody's own machine
        pytest.skip(f"no Slurm here ({', '.join(missing)}); on Debian: apt-get install {' '.join(PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        got = subprocess.run(
            ["apt-get", *command], env=environment, capture_output=True, text=True, check=False
        )
        if got.returncode != 0:
            pytest.skip(f"Slurm could not be installed: {(got.stderr.strip() or got.stdout.strip())[-300:]}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The running cluster."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    _install()
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@dataclass
class Driver:
    """A command that waits for its jobs on the cluster."""

    process: subprocess.Popen[str]
    outputs: Path

    def end(self, seconds: float = 180) -> tuple[int, str]:
        """Its exit code and all that it printed."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, out


@pytest.fixture
def drive(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts a script with a multirun on the cluster: a function of the script and its arguments."""
    started: list[Driver] = []

    def start(script: Path, *arguments: str, outputs: Path = tmp_path / "outputs") -> Driver:
        fast = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.5", "hydra.launcher.cpus_per_task=1"]
        process = subprocess.Popen(
            [sys.executable, str(script), "-m", *fast, f"outputs={outputs}", *arguments],
            env={**cluster.environment, "HYDRA_FULL_ERROR": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(Driver(process, outputs))
        return started[-1]

    yield start
    for driver in started:
        if driver.process.poll() is None:
            driver.process.kill()
    cluster.ask("scancel --user=root")
    cluster.configure()


@pytest.fixture(scope="session")
def app() -> Path:
    """A script whose jobs count steps and take no time to import."""
    return Path(__file__).parent / "counting.py"


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Waits for a condition, a function, to become true: `until(condition, "what it is", seconds=60)`."""
    return _until
