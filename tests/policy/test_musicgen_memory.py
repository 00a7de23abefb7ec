"""Loading takes the module's own size of memory, from either layout: files are mapped, tensors copied one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from policy.checkpoint import load_policy
from policy.musicgen.audiocraft import save_audiocraft
from policy.musicgen.random_checkpoint import RandomShapes, write_random

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import sys, threading, time
from policy.checkpoint import load_policy

def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

load_policy(sys.argv[2])  # what importing and a small model take
before, peak, done = held(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, held())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
policy = load_policy(sys.argv[1])
done = True
size = 4 * sum(parameter.numel() for parameter in policy.parameters())
print((peak - before) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of a process's own memory")
def test_loading_takes_the_models_own_size(tmp_path: Path) -> None:
    small = write_random(tmp_path / "small", RandomShapes())
    large = write_random(tmp_path / "large", RandomShapes(width=768, layers=6, heads=12, entries=2048))
    save_audiocraft(load_policy(large), tmp_path / "audiocraft")
    for folder in (large, tmp_path / "audiocraft"):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(folder), str(small)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert 0.9 < float(done.stdout) < 1.25, folder.name
