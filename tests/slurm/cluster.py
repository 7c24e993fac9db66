"""A Slurm cluster of one node on the loopback address, for as long as a test needs it; runs as root in a container."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["cluster", "why_not"]

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
CONFIGURATION = """\
ClusterName=protoat
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Installs Slurm where it is missing; says why there can be no cluster, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm cluster of our own needs root on Linux"
    if all(map(_found, ("slurmctld", "slurmd", "srun", "munged"))):
        return None
    if shutil.which("apt-get") is None:
        return "Slurm is not installed, and there is no apt-get to install it"
    quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "text": True}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    for command in (install, ["apt-get", "update"], install):
        done = subprocess.run(command, check=False, **quiet)  # type: ignore[call-overload]
        if done.returncode == 0 and command is install:
            return None
    return f"Slurm cannot be installed: {done.stderr.strip().splitlines()[-1:]}"


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts munge, the controller and the node, and stops them; yields the environment in which Slurm finds them."""
    with tempfile.TemporaryDirectory(prefix="protoat-slurm-") as name, ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)  # munge runs as a user of its own
        configuration = folder / "slurm.conf"
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        configuration.write_text(
            CONFIGURATION.format(
                host=platform.node().partition(".")[0], folder=folder, ports=_free_ports(), cpus=os.cpu_count()
            )
        )
        environment = os.environ | {"SLURM_CONF": str(configuration)}
        for command in (_munge(folder), [str(_found("slurmctld")), "-D"], [str(_found("slurmd")), "-D"]):
            running.enter_context(_daemon(command, environment, folder))
        _wait_until_idle(environment, folder)
        try:
            yield {"SLURM_CONF": str(configuration)}
        finally:  # what a failed test has left
            subprocess.run(["scancel", "--me"], env=environment, check=False)


def _munge(folder: Path) -> list[str]:
    """How `setpriv` runs munged; makes what it wants to find."""
    home = folder / "munge"
    home.mkdir(mode=0o755)
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o400)
    for path in (home, home / "key"):
        shutil.chown(path, "munge", "munge")
    files = [f"--{what}={home / what.partition('-')[0]}" for what in ("socket", "key-file", "pid-file", "seed-file")]
    command = [str(_found("munged")), "--foreground", "--num-threads=2", f"--log-file={home / 'log'}", *files]
    return ["--reuid=munge", "--regid=munge", "--clear-groups", *command]


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Runs a daemon, which ends with this process even where that is killed."""
    with (folder / f"{len(list(folder.iterdir()))}.log").open("w") as log:
        whole = ["setpriv", "--pdeathsig=TERM", *command]
        process = subprocess.Popen(whole, env=environment, stdout=log, stderr=log)
    try:
        time.sleep(1)
        assert process.poll() is None, f"{command} ended at once: {Path(log.name).read_text()}"
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(2)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    state, deadline = "", time.monotonic() + 60
    while time.monotonic() < deadline:
        asked = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
        )
        state = (asked.stdout + asked.stderr).strip()
        if state == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
    raise AssertionError(f"the node did not come up, it is {state!r}:\n{logs}")
