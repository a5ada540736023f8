"""What a worker's process does with memory that has been freed."""

from __future__ import annotations

import json
import subprocess
import sys

FREED = """
import json, os
import torch
from intarsia_server.engine.device_info import resident_memory
from intarsia_server.executors.worker import keep_memory


def left(megabytes):
    buffers = [torch.ones(megabytes * 2**20, dtype=torch.uint8) for _ in range(256 // megabytes)]
    taken = resident_memory(os.getpid()) - start
    del buffers
    return taken >> 20, (resident_memory(os.getpid()) - start) >> 20


torch.ones(1)
start = resident_memory(os.getpid())
keep_memory(2**24)
rows = [left(32), left(4)]
keep_memory()
print(json.dumps([*rows, left(32)]))
"""


def test_buffers_of_a_picture_go_back_and_those_of_its_tiles_stay() -> None:
    """Of 256 MiB in buffers of a picture, and of tiles; then in those of a picture that is seen as a whole."""
    found = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, timeout=120)
    picture, tiles, whole = json.loads(found.stdout)
    assert picture[0] > 240
    assert picture[1] < 16
    assert tiles[1] > 200
    assert whole[1] > 200
