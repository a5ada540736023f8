"""Setting fields of a request by name: what `parameters` and `--set key=value` do.

Everything here is read from the protobuf descriptors, so a knob added to the API can be set at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from PIL import Image

from intarsia.errors import RequestError
from intarsia.images import to_image
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["enum_names", "set_parameter", "unknown"]

_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def set_parameter(key: str, value: object, messages: Sequence[Message]) -> None:
    """Sets the field `key` of the first of `messages` that has one.

    Args:
        key: The field's name in the proto; as typed by a person, it is what errors name.
        value: The value, or text that says it: enums by their short lower-case name, images as a path, bytes or a
            PIL image.
        messages: Where to look, in this order.

    Raises:
        RequestError: No message has such a field, or the value is not of its type.
        OSError: The value is a file that cannot be read.
    """
    name = key.rpartition(".")[2]
    for message in messages:
        field = _settable(message).get(name)
        if field is not None:
            _assign(message, field, key, value)
            return
    raise unknown(
        "parameter", key, [key.removesuffix(name) + known for message in messages for known in _settable(message)]
    )


def unknown(kind: str, name: str, known: Iterable[str]) -> RequestError:
    """Returns the error for a name that is none of the `known`, with a guess at the one that was meant."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, names, n=1) or [longer for longer in names if name in longer]
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return RequestError(f"unknown {kind} '{name}'.{guess} Known: {', '.join(names)}.")


def enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """Returns an enum's numbers by short lower-case name, less the unspecified: {"lbfgs": 1, "adam": 2}."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


def _settable(message: Message) -> dict[str, Any]:
    """Returns the single-valued fields, less those of a real oneof: choosing among these is not a knob's business."""
    return {
        field.name: field
        for field in message.DESCRIPTOR.fields
        if not field.is_repeated
        and (field.containing_oneof is None or field.containing_oneof.name == f"_{field.name}")
        and (field.message_type is None or field.message_type == pb.Image.DESCRIPTOR)
    }


def _assign(message: Message, field: FieldDescriptor, key: str, value: object) -> None:
    if field.message_type is not None:
        if not isinstance(value, str | os.PathLike | bytes | Image.Image):
            raise _mismatch(key, value, "a picture's path")
        getattr(message, field.name).CopyFrom(to_image(value))
        return
    parsed = _parse(field, key, value)
    try:
        setattr(message, field.name, parsed)
    except ValueError as error:  # protobuf's own check of ranges
        raise RequestError(f"{key}: {value} is out of range for a {_type_name(field)}") from error


def _parse(field: FieldDescriptor, key: str, value: object) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return str(value)
    if field.enum_type is not None:
        names = enum_names(field.enum_type)
        if str(value).lower() not in names:
            raise _mismatch(key, value, f"one of {', '.join(names)}")
        return names[str(value).lower()]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _parse_bool(key, value)
    # bool is an int to Python, but "steps=True" is surely a slip.
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _mismatch(key, value, _type_name(field))
    try:
        if field.type in _FLOATS:
            return float(value)  # NaN and infinity too: the server says what it refuses
        return value if isinstance(value, int) else int(str(value))
    except ValueError as error:
        raise _mismatch(key, value, _type_name(field)) from error


def _parse_bool(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise _mismatch(key, value, "true or false")
    return text in _TRUE


def _type_name(field: FieldDescriptor) -> str:
    if field.type in _FLOATS:
        return "number"
    unsigned = field.type in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)
    return "whole number, 0 or more" if unsigned else "whole number"


def _mismatch(key: str, value: object, expected: str) -> RequestError:
    return RequestError(f"{key}: expected {expected}, got '{value}'")
