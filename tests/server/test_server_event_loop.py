"""What could hold the front's event loop up, and with it everybody."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import gc
from intarsia_server.app import settle_memory
assert len(gc.get_objects()) > 20_000
settle_memory()
assert gc.get_freeze_count() > 20_000
assert len(gc.get_objects()) < 1000
"""


def test_the_garbage_collector_leaves_alone_what_was_loaded() -> None:
    answer = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
