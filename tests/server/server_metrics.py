"""Servers with metrics, and what they say."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families
from server_process import LONG, ServerProcess, running_server

Figures = dict[tuple[str, ...], float]


@contextmanager
def measured_server(**settings: object) -> Iterator[ServerProcess]:
    with running_server(metrics_address="127.0.0.1:0", **settings) as server:
        server.wait_until_ready()
        yield server
        server.terminate()
        assert server.wait_for_end() == 0


def scrape(server: ServerProcess) -> Figures:
    """Values by name and values of the labels, those in their names' order."""
    (url,) = re.findall(r"metrics on (http\S+)", server.log)
    with urllib.request.urlopen(url, timeout=LONG) as response:
        text = response.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def moved(before: Figures, after: Figures) -> Figures:
    """By how much counters have grown, without those that have not."""
    grown = {key: after[key] - before.get(key, 0) for key in after if not key[0].endswith("_bucket")}
    return {key: value for key, value in grown.items() if value}
