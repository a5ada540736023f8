"""Make the example: one photo, its label map, and a style picture for each of its three segments.

Run `python -m examples.art` from the repository's root. All pictures are drawn from fixed seeds, so a second run
gives the same ones.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from examples.art import brush, glass, ink, labels

EXAMPLES = Path(__file__).resolve().parent.parent


def make_content(path: Path) -> None:
    """Copy scikit-image's coffee picture; without scikit-image, keep the copy that is there."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        if not path.exists():
            raise SystemExit(f"{path.name} is missing; install scikit-image to take it from there")
        return
    with Image.open(Path(package.origin).parent / "data" / "coffee.png") as photo:
        clean = Image.frombytes("RGB", photo.size, photo.convert("RGB").tobytes())
    clean.save(path, optimize=True)


def main() -> None:
    """Make every file of the example."""
    makers = {
        "content.png": make_content,
        "labels.png": labels.make,
        "styles/brush.png": brush.make,
        "styles/glass.png": glass.make,
        "styles/ink.png": ink.make,
    }
    (EXAMPLES / "styles").mkdir(exist_ok=True)
    for name, maker in makers.items():
        path = EXAMPLES / name
        maker(path)
        print(f"{path.stat().st_size / 1024:6.0f} KiB  {name}")


if __name__ == "__main__":
    main()
