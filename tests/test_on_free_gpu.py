"""Commands that share the GPUs of one machine."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(sys.platform == "win32", reason="what stands for nvidia-smi is a shell script")
def test_cells_share_out_the_gpus_of_one_machine(tmp_path):
    """Three commands at once on a machine that says it has two GPUs: two run side by side, the third waits."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU 0: one\necho GPU 1: two\n")
    smi.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    environment |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    body = (
        "import os, time; a = time.time(); time.sleep(1.5); print(os.environ['CUDA_VISIBLE_DEVICES'], a, time.time())"
    )
    command = [sys.executable, str(ROOT / "study" / "on_free_gpu.py"), sys.executable, "-c", body]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    spans = sorted((p.communicate()[0].split() for p in processes), key=lambda span: float(span[1]))
    assert {span[0] for span in spans} == {"0", "1"}
    assert spans[0][0] != spans[1][0]
    for device in ("0", "1"):  # one after the other on the same GPU
        mine = [span for span in spans if span[0] == device]
        assert all(float(later[1]) >= float(earlier[2]) for earlier, later in pairwise(mine))


def test_without_a_gpu_the_command_just_runs(tmp_path):
    command = [sys.executable, str(ROOT / "study" / "on_free_gpu.py"), sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}).returncode == 7
