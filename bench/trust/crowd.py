"""Many watchers of one job, in a process of their own: `python -m bench.trust.crowd ADDRESS JOB_ID READERS SLOW`.

It prints a line once all of them have the job's first event, and another, the number of those that have seen the job
succeed, once all readers have. The slow ones read no more than the first event. The process is nice: it stands for
other machines, and should take nothing away from the worker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub


@dataclass
class Crowd:
    """Such a process, as the one that started it sees it."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """The next one that it prints; empty if it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def crowd(address: str, job_id: str, readers: int, slow: int) -> Iterator[Crowd]:
    """Starts one and waits until all watch."""
    command = [sys.executable, "-m", "bench.trust.crowd", address, job_id, str(readers), str(slow)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        there = Crowd(process)
        there.line()
        yield there
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def main(address: str, job_id: str, readers: int, slow: int) -> None:
    """Watches, each with a connection of its own."""
    began = [asyncio.Event() for _ in range(readers + slow)]
    done = asyncio.Event()

    async def watch(event: asyncio.Event, reads: bool) -> bool:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        async with grpc.aio.insecure_channel(address, options) as channel:
            call = StyleTransferServiceStub(channel).WatchJob(pb.WatchJobRequest(job_id=job_id))
            await anext(aiter(call))
            event.set()
            if not reads:
                await done.wait()
                return False
            async for message in call:
                if message.event.HasField("completed"):
                    return True
            return False

    tasks = [asyncio.create_task(watch(event, index < readers)) for index, event in enumerate(began)]
    for event in began:
        await event.wait()
    print("watching", flush=True)
    seen = await asyncio.gather(*tasks[:readers])
    print(sum(seen), flush=True)
    done.set()
    await asyncio.gather(*tasks[readers:])


if __name__ == "__main__":
    os.nice(19)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
