"""A disk that can be filled and emptied: a file system in memory, of a few MiB. Linux, and the right to mount."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SmallDisk:
    """See above.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leaves no room, not for a byte."""
        with self._ballast.open("ab", buffering=0) as file:
            page = bytes(os.statvfs(self.folder).f_bsize)
            try:
                while file.write(page) == len(page):
                    pass
            except OSError:
                pass

    def free(self) -> None:
        """Makes room again."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(mib: int) -> Iterator[SmallDisk]:
    """Mounts one.

    Raises:
        PermissionError: this process may not.
    """
    with tempfile.TemporaryDirectory(prefix="intarsia-disk-") as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "intarsia", name], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            raise PermissionError(f"no small disk can be mounted: {mounted.stderr.decode().strip()}")
        try:
            yield SmallDisk(Path(name))
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)
