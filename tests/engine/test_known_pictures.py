"""Style images that were checked before are not decoded to be checked again, and are judged as if they were."""

from __future__ import annotations

import example_scene
import numpy as np
import pytest
from intarsia_server.engine import inputs
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import DecodedImage, decode_rgb
from intarsia_server.engine.inputs import check_inputs, decode_inputs
from intarsia_server.engine.known_pictures import KnownPictures
from intarsia_server.engine.label_finder import Tools
from intarsia_server.engine.request import TransferRequest

LIMIT = example_scene.MAX_PIXELS
STYLES = [f"segments[{index}].style.data" for index in range(3)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fields of the pictures that are decoded to be checked."""
    fields: list[str] = []

    def watched(data: bytes, field: str, *, max_pixels: int) -> DecodedImage:
        fields.append(field)
        return decode_rgb(data, field, max_pixels=max_pixels)

    monkeypatch.setattr(inputs, "decode_rgb", watched)
    return fields


def request(style: bytes, scale: float = 1.0) -> TransferRequest:
    """The example with another first style."""
    return example_scene.request("masked-gram", segments=({"style": style, "style_scale": scale}, {}, {}))


def noise(width: int, height: int, **options: object) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return example_scene.png(pixels, **options)


def test_a_style_is_decoded_once(decoded: list[str]) -> None:
    tools = Tools(known=KnownPictures())
    one = request(noise(100, 80))
    size = check_inputs(one, max_pixels=LIMIT, tools=tools)
    assert decoded == ["content.data", *STYLES]
    decoded.clear()
    assert check_inputs(one, max_pixels=LIMIT, tools=tools) == size
    assert decoded == ["content.data"]
    decoded.clear()
    check_inputs(request(noise(101, 80)), max_pixels=LIMIT, tools=tools)
    assert decoded == ["content.data", STYLES[0]]


def test_known_styles_make_the_same_inputs() -> None:
    known = Tools(known=KnownPictures())
    one = request(noise(100, 80))
    first, second, plain = (decode_inputs(one, max_pixels=LIMIT, tools=tools) for tools in (known, known, Tools()))
    for index in range(3):
        expected = plain.styles[index]
        assert expected is not None
        assert np.array_equal(expected, first.styles[index])
        assert np.array_equal(expected, second.styles[index])


def test_what_is_wrong_is_refused_again(decoded: list[str]) -> None:
    """Both what no decoder takes and what is wrong for the request only."""
    tools = Tools(known=KnownPictures())
    bad = [
        (request(b"nothing"), STYLES[0]),
        (request(noise(100, 20)), STYLES[0]),
        (request(noise(100, 80), scale=0.1), "segments[0].style_scale"),
        (request(noise(100, 80), scale=20.0), "segments[0].style_scale"),
    ]
    for one, field in (*bad, *bad):
        with pytest.raises(InvalidInputError) as caught:
            check_inputs(one, max_pixels=LIMIT, tools=tools)
        assert caught.value.field == field
    assert decoded.count(STYLES[0]) == 4, "the first one twice, the others' two pictures once"


def test_a_smaller_limit_holds_for_a_known_picture() -> None:
    tools = Tools(known=KnownPictures())
    one = request(noise(200, 200))
    check_inputs(one, max_pixels=LIMIT, tools=tools)
    with pytest.raises(InvalidInputError, match="more than the limit"):
        check_inputs(one, max_pixels=200 * 200 - 1, tools=tools)


def test_a_warning_comes_with_every_job() -> None:
    tools = Tools(known=KnownPictures())
    one = request(noise(100, 80, icc_profile=b"no profile"))
    for _ in range(2):
        codes = [code for code, _ in decode_inputs(one, max_pixels=LIMIT, tools=tools).warnings]
        assert codes == ["colour_profile_ignored"]


def test_the_least_recently_seen_is_forgotten() -> None:
    known = KnownPictures(most=2)
    known.add("a", (1, 2))
    known.add("b", (3, 4))
    assert known.get("a") == (1, 2)
    known.add("c", (5, 6))
    assert [known.get(name) for name in "abc"] == [(1, 2), None, (5, 6)]
