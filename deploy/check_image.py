"""Builds the CPU image without an engine, runs it as an orchestrator would, and looks whether it keeps its word.

`make image-check`, as root on Debian, with the packages buildah and debootstrap. The base image is made by debootstrap,
so that nothing is fetched from an image registry. The server runs as the image says (user, environment, entry point) in
namespaces of its own: a read-only root, a fresh /tmp, one volume, and no network but loopback. Pip in the build goes by
the configuration of pip here, which does not get into the image.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGE, BASE = "localhost/intarsia:cpu", "localhost/debian:bookworm-slim"
PORT = 50051
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "nvcc", "make", "as", "ld")

APT_CLEAN = """
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
"""

LOOPBACK_UP = """
import fcntl, socket, struct
request = struct.pack("16sh14x", b"lo", 1)
fcntl.ioctl(socket.socket(), 0x8914, request)
"""
"""SIOCSIFFLAGS, IFF_UP: a fresh network namespace has its loopback down."""

ENTER = """
set -e
root=$1; data=$2; up=$3; user=$4; shift 4
python3 -c "$up"
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$data" "$root/data"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -m 1777 "$root/dev/shm"
exec env -i /usr/sbin/chroot --userspec="$user" "$root" "$@"
"""
"""What a container runtime does: mounts, then the image's user and command in the place of this shell."""


class CheckError(Exception):
    """The image does not keep its word."""


def call(*command: str | Path, **options: Any) -> str:
    """Runs it, and returns what it prints; what it says on standard error goes to the terminal."""
    printed: str = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout
    return printed


class Buildah:
    """Buildah with a store of its own, which needs neither overlay nor a daemon."""

    def __init__(self, work: Path) -> None:
        self._command = ("buildah", "--storage-driver", "vfs", "--root", work / "store", "--runroot", work / "run")

    def __call__(self, *arguments: str | Path, quietly: bool = True) -> str:
        """Returns what it prints, or shows it."""
        if quietly:
            return call(*self._command, *arguments).strip()
        subprocess.run((*self._command, *arguments), check=True)
        return ""

    def has(self, image: str) -> bool:
        """Whether it is in the store."""
        command = (*self._command, "inspect", "--type", "image", image)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def base_image(buildah: Buildah, work: Path, release: str = "bookworm") -> None:
    """Debian's smallest system, as the official slim image is."""
    if buildah.has(BASE):
        return
    rootfs = work / "rootfs"
    if not rootfs.exists():
        fresh = work / "rootfs.part"
        shutil.rmtree(fresh, ignore_errors=True)
        subprocess.run(("debootstrap", "--variant=minbase", release, fresh), check=True, stdout=subprocess.DEVNULL)
        fresh.rename(rootfs)
    # Like the official image, which keeps neither packages nor apt's caches.
    (rootfs / "etc/apt/apt.conf.d/clean").write_text(APT_CLEAN)
    for cache in (rootfs / "var/cache/apt").rglob("*.*"):
        cache.unlink()
    container = buildah("from", "scratch")
    buildah("add", container, rootfs, "/")
    buildah("commit", "--rm", container, BASE)


def pip_mounts(work: Path) -> list[str]:
    """Mounts that make pip in the build find what pip finds here."""
    values: dict[str, str] = {}
    mounts = []
    listed = call(shutil.which("pip") or "pip3", "config", "list").splitlines()
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):  # the environment has the last word
        key, _, value = line.partition("=")
        option, value = key.rpartition(".")[2], value.strip("'")
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if option == "cert":
                # Not where it lies here: the build installs authorities of its own there.
                mounts.append(f"{path.resolve()}:/run/pip-ca.pem:ro")
                value = "/run/pip-ca.pem"
            elif path.is_absolute() and path.exists():
                # An index's pages point to files beside it.
                shared = path.parent if word.startswith("file://") else path
                mounts.append(f"{shared}:{shared}:ro")
        values[option] = value
    configuration = work / "pip.conf"
    configuration.write_text("\n".join(["[global]", *(f"{option} = {value}" for option, value in values.items()), ""]))
    mounts.append(f"{configuration}:/etc/pip.conf:ro")
    return [argument for mount in dict.fromkeys(mounts) for argument in ("--volume", mount)]


@dataclass(frozen=True)
class Image:
    """What the image says of itself, and where its files are."""

    root: Path
    config: Mapping[str, Any]

    def command(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """In the image's environment, by `env`."""
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        return ["/usr/bin/env", f"--chdir={self.config['WorkingDir']}", *variables, *command]


@dataclass
class Container:
    """One that runs."""

    image: Image
    process: subprocess.Popen[str]
    environment: Mapping[str, str]

    @property
    def server(self) -> int:
        """The process id, here, of the container's first process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            raise CheckError(f"the container ended with {self.process.wait()}")
        return int(children[0])

    def inside(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, as `exec` of an engine does: same environment, and user unless named."""
        enter = ("nsenter", f"--target={self.server}", "--mount", "--pid", "--net")
        chroot = ("/usr/sbin/chroot", f"--userspec={user or self.image.config['User']}", str(self.image.root))
        full = (*enter, "env", "-i", *chroot, *self.image.command(command, self.environment))
        return subprocess.run(full, capture_output=True, text=True, check=False)

    def beside(self, *command: str | Path) -> str:
        """Runs a command of this machine in the container's network, as a neighbour of the container's."""
        return call("nsenter", f"--target={self.server}", "--net", *command)

    def healthy(self, seconds: float = 600) -> None:
        """Waits until the image's own health check passes."""
        check = self.image.config["Healthcheck"]["Test"]
        deadline = time.monotonic() + seconds
        while (answer := self.inside(*check[1:])).returncode != 0:
            if time.monotonic() > deadline:
                raise CheckError(f"not healthy after {seconds:g} s: {answer.stdout}{answer.stderr}")
            time.sleep(0.5)

    def terminate(self) -> int:
        """SIGTERM to its first process; returns the exit code."""
        os.kill(self.server, signal.SIGTERM)
        return self.process.wait(300)


@contextlib.contextmanager
def running(image: Image, data: Path, **environment: str) -> Iterator[Container]:
    """The image's entry point, in namespaces of its own."""
    entry = image.command(image.config["Entrypoint"], environment)
    script = ("sh", "-c", ENTER, "sh", image.root, data, LOOPBACK_UP, image.config["User"], *entry)
    process = subprocess.Popen(("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", *script), text=True)
    try:
        while Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == "":
            time.sleep(0.05)
        yield Container(image, process, environment)
    finally:
        process.kill()
        process.wait()


def check(name: str, holds: bool, found: object = "") -> None:
    """Says it.

    Raises:
        CheckError: it does not hold.
    """
    print(f"{'ok  ' if holds else 'FAIL'}  {name}{f': {found}' if found != '' else ''}", flush=True)
    if not holds:
        raise CheckError(name)


def check_files(image: Image) -> None:
    """What can be told without running it."""
    config = image.config
    user = str(config["User"])
    check("runs as a fixed user that is not root", user.partition(":")[0] == "10001", user)
    check("one volume", list(config["Volumes"]) == ["/data"], list(config["Volumes"]))
    check("the entry point is a command, not a shell's line", config["Entrypoint"] == ["intarsia", "serve"])
    check("has a health check", config["Healthcheck"]["Test"][0] == "CMD", " ".join(config["Healthcheck"]["Test"]))
    found = [
        str(path)
        for name in COMPILERS
        for folder in ("usr/bin", "usr/local/bin", "opt/intarsia/bin")
        if (path := image.root / folder / name).exists()
    ]
    check(f"no {', '.join(COMPILERS)}", not found, found or "")
    pip = [path.name for path in (image.root / "opt/intarsia/bin").glob("pip*")]
    # The mounts leave empty files in their places.
    left = [name for name in ("run/pip-ca.pem", "etc/pip.conf") if size_of(image.root / name) > 0]
    left += [line for line in config["Env"] if "PIP" in line]
    check("no pip, and nothing of its configuration", not pip and not left, [*pip, *left] or "")


def size_of(file: Path) -> int:
    """In bytes; 0 if it is not there."""
    return file.stat().st_size if file.exists() else 0


def check_container(container: Container, data: Path, intarsia: Sequence[str | Path], out: Path) -> None:
    """The container as it runs."""
    container.healthy()
    check("the health check passes", True)
    status = Path(f"/proc/{container.server}/status").read_text()
    user, capabilities = (re.findall(rf"^{name}:\s+(\w+)", status, re.MULTILINE)[0] for name in ("Uid", "CapEff"))
    check("its processes are not root's", user == "10001", f"uid {user}")
    check("nor have they capabilities", int(capabilities, 16) == 0, capabilities)
    writes = [
        place
        for place in ("/", "/etc", "/opt/intarsia", "/usr/bin", "/var/tmp")
        if container.inside("touch", f"{place}/written", user="0:0").returncode == 0
    ]
    check("the root file system takes no writes, not even root's", not writes, writes or "")
    compiler = [name for name in COMPILERS if container.inside("which", name).returncode == 0]
    check("nothing compiles", not compiler, compiler or "")
    facts = container.beside(*intarsia, "info", "--server", f"127.0.0.1:{PORT}")
    operators = next(line for line in facts.splitlines() if line.startswith("ops"))
    check("the operators are the compiled ones", "torch" not in operators.split()[1], " ".join(operators.split()))
    job(container, intarsia, out)
    check("a job from outside is done", out.stat().st_size > 1000, f"{out.stat().st_size} bytes")
    check("its picture is in the volume", any((data / "results").iterdir()))
    owners = {path.stat().st_uid for path in data.rglob("*")}
    check("which belongs to the image's user", owners == {10001}, owners)


def job(container: Container, intarsia: Sequence[str | Path], out: Path) -> None:
    """A small transfer over the example's pictures, on the container's only network: loopback."""
    examples = ROOT / "examples"
    styles = [f"--style={label}={examples}/styles/{name}.png" for label, name in enumerate(("glass", "ink", "brush"))]
    container.beside(
        *intarsia, "stylize", examples / "content.png", "--labels", examples / "labels.png", *styles,
        "--size", "160", "--steps", "10", "-o", out, "--server", f"127.0.0.1:{PORT}",
    )  # fmt: skip


def check_image(image: Image, work: Path, intarsia: Sequence[str | Path]) -> None:
    """Everything."""
    check_files(image)
    data = Path(tempfile.mkdtemp(prefix="data-", dir=work))
    os.chown(data, 10001, 10001)
    with running(image, data) as container:
        code = container.process.wait(300)
    check("as it comes, it refuses to speak plain text to the network", code == 2, f"exit code {code}")
    first, second = work / "first.png", work / "second.png"
    with running(image, data, INTARSIA_PLAINTEXT="allowed") as container:
        check_container(container, data, intarsia, first)
        code = container.terminate()
    check("SIGTERM ends it with 0", code == 0, f"exit code {code}")
    with running(image, data, INTARSIA_PLAINTEXT="allowed") as container:
        container.healthy()
        server = ("--server", f"127.0.0.1:{PORT}")
        (listed,) = json.loads(container.beside(*intarsia, "jobs", "list", "--json", "-", *server))["jobs"]
        container.beside(*intarsia, "jobs", "result", listed["jobId"], "-o", second, *server)
        same = first.read_bytes() == second.read_bytes()
        check("another container on the same volume has the job and its picture", same, listed["jobId"])
        container.terminate()
    shutil.rmtree(data)


def size(root: Path, *parts: str) -> str:
    """Of the files below, in MB."""
    return f"{int(call('du', '-sxB1', root.joinpath(*parts)).split()[0]) / 1e6:.0f} MB"


def main() -> int:
    """Exit code 0: all of it holds; 1: not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build/image-check", help="folder for the store, kept")
    parser.add_argument("--intarsia", type=Path, default=None, help="the client; default: of this Python")
    parser.add_argument("--no-build", action="store_true", help="check the image that the last run has built")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    intarsia = (
        [options.intarsia] if options.intarsia else [sys.executable, "-c", "from intarsia.cli import main; main()"]
    )
    buildah = Buildah(options.work)
    if not options.no_build:
        base_image(buildah, options.work)
        buildah(
            "bud", "--isolation", "chroot", "--format", "docker", "--target", "cpu", "--tag", IMAGE,
            "--build-arg", f"CPU_IMAGE={BASE}", *pip_mounts(options.work), ROOT, quietly=False,
        )  # fmt: skip
    container = buildah("from", "--pull-never", IMAGE)
    try:
        root = Path(buildah("mount", container))
        config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        parts = ("opt/intarsia/lib/python3.11/site-packages/torch", "opt/intarsia", "usr")
        print("size:", size(root), "of which", ", ".join(f"/{part} {size(root, part)}" for part in parts))
        check_image(Image(root, config), options.work, intarsia)
    except CheckError as error:
        print(f"the image does not keep its word: {error}", file=sys.stderr)
        return 1
    finally:
        buildah("rm", container)
    return 0


if __name__ == "__main__":
    sys.exit(main())
