"""What a part can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.options import OUT


@dataclass(frozen=True, kw_only=True)
class Options:
    """Numbers that replace the goals' own.

    Attributes:
        requests: fuzzed requests.
        pictures: mutated pictures.
        overload_seconds: that a server is offered too much for, with each kind of pictures.
        fairness_seconds: that two clients compete for.
        cancels: of running jobs.
        worker_kills: jobs whose worker is killed.
        server_kills: of the server.
        jobs: small ones in a row.
        terminations: of a server with a running job.
        load_seconds: that a server is kept at full load for.
        kills: clients that are killed.
        rounds: jobs with watchers, and as many without.
        watchers: of one job; a tenth of them slow.
        seed: of whatever is drawn.
        out: folder to write to.
    """

    requests: int = 100_000
    pictures: int = 20_000
    overload_seconds: float = 60.0
    fairness_seconds: float = 60.0
    cancels: int = 100
    worker_kills: int = 50
    server_kills: int = 25
    jobs: int = 500
    terminations: int = 8
    load_seconds: float = 30.0
    kills: int = 20
    rounds: int = 5
    watchers: int = 200
    seed: int = 0
    out: Path = OUT / "trust"
