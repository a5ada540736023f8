#!/bin/sh
# Fills /opt/intarsia, the virtual environment that goes into the image. For the Dockerfile's build stages alone:
#   build.sh dependencies "torch==... torchvision==..." "server telemetry"    what changes seldom, in a layer of its own
#   build.sh package                                                          the distribution, its operators compiled
set -eu

prefix=/opt/intarsia
tools=/opt/tools # pip, setuptools and the like, which stay behind

# Prints requirements of pyproject.toml, one a line: for what, and of which extras.
requirements() {
    python3 - "$@" <<'PYTHON'
import sys, tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())
extras = project["project"]["optional-dependencies"]
running = [line for name in "".join(sys.argv[2:]).split() for line in extras[name]]
building = [line for line in extras["dev"] if line.startswith(("ninja", "pybind11"))]
print(*{
    "run": [*project["project"]["dependencies"], *running],
    "build": [*project["build-system"]["requires"], *building],
}[sys.argv[1]], sep="\n")
PYTHON
}

dependencies() {
    python3 -m venv --without-pip "$prefix"
    python3 -m venv "$tools"
    requirements build > /tmp/build.txt
    requirements run "$2" > /tmp/run.txt
    # The wheel is compiled against the torch that will run it.
    "$prefix/bin/python" -c 'import site; print(site.getsitepackages()[0])' \
        > "$("$tools/bin/python" -c 'import site; print(site.getsitepackages()[0])')/intarsia.pth"
    # Unquoted: one word a requirement.
    # shellcheck disable=SC2086
    "$tools/bin/pip" --python "$prefix/bin/python" install --no-cache-dir $1 -r /tmp/run.txt
    "$tools/bin/pip" install --no-cache-dir --ignore-installed -r /tmp/build.txt
}

package() {
    PATH="$tools/bin:$PATH" "$tools/bin/pip" wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /tmp/wheel .
    "$tools/bin/pip" --python "$prefix/bin/python" install --no-cache-dir --no-deps --no-index /tmp/wheel/intarsia-*.whl
    site=$("$prefix/bin/python" -c 'import site; print(site.getsitepackages()[0])')
    # Headers and archives are of no use without a compiler, nor are torch's own tests.
    rm -rf "$site/torch/include" "$site/torch/share" "$site/torch/test"
    find "$site/torch/bin" -type f ! -name torch_shm_manager -delete
    find "$site" -name '*.a' -delete
    install -m 0755 deploy/image/health.py "$prefix/bin/intarsia-health"
    # Outside of the source tree: what was installed must have its operators and its weights.
    cd /
    "$prefix/bin/python" - <<'PYTHON'
from intarsia_server.engine.weights import load_weights
from intarsia_server.ops import native

assert native.load() is not None, "the operators are not compiled"
print("operators:", native.load().build_info())
print("convolutions of the embedded encoder:", len(load_weights("embedded")))
PYTHON
}

"$@"
