"""What a small request can make the front process hold: it serves everybody and must not be killed for one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image
from server_jobs import read_until
from server_process import LONG, ServerProcess

SEGMENTS = 64


def _most_memory(pid: int) -> int:
    """Bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024


def test_many_segments_at_a_large_size(start_server: Callable[..., ServerProcess]) -> None:
    """The styles at the output's size come to 300 MB; the front only has to know that they can be read."""
    rows, columns = np.arange(64)[:, None] // 8, np.arange(96)[None] // 12
    request = pb.StylizeRequest(
        content=pb.Image(data=pictures.content()),
        label_map=pb.Image(data=pictures.encoded(Image.fromarray((8 * rows + columns).astype(np.uint8)))),
        segments=[
            pb.Segment(labels=[label], style=pb.Image(data=pictures.flat("red", (32, 32)))) for label in range(SEGMENTS)
        ],
        output=pb.Output(size=1000),
    )
    server = start_server()
    server.wait_until_ready()
    before = _most_memory(server.process.pid)
    with server.stub() as stub:
        call = stub.Stylize(request, timeout=LONG)
        read_until(call, "accepted")
        call.cancel()
    assert _most_memory(server.process.pid) - before < 200e6
