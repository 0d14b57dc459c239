"""Commands under a launcher, with two processes on the CPU."""

import os
import socket
import subprocess
import sys


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def two_processes(command, cwd=None):
    """Run a launcher's command line on the CPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)


def torchrun(*words, cwd=None):
    """Run a module or script under torchrun with two CPU processes."""
    settings = ["--nproc_per_node", "2", "--master_port", str(free_port())]
    return two_processes([sys.executable, "-m", "torch.distributed.run", *settings, *words], cwd)
