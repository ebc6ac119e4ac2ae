"""Run a command on a GPU of this machine that no other such command holds: ``python on_free_gpu.py COMMAND ...``.

Waits while all are taken. Where CUDA_VISIBLE_DEVICES is set (Slurm does) or there is no GPU, just runs the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout


def gpus() -> int:
    """Number of NVIDIA GPUs of this machine."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def main(command: list[str]) -> int:
    number = gpus()
    if "CUDA_VISIBLE_DEVICES" in os.environ or number == 0:
        return subprocess.call(command)
    while True:
        for index in range(number):
            # The lock goes with the process, also when that is killed.
            lock = FileLock(Path(tempfile.gettempdir()) / f"anchor-gpu-{index}.lock")
            try:
                with lock.acquire(blocking=False):
                    return subprocess.call(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": str(index)})
            except Timeout:
                continue
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
