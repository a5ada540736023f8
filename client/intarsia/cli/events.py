"""`--events`: each event as one JSON line."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from intarsia.cli.job import Listener
from intarsia.errors import RequestError
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["STDOUT", "event_line", "events_file", "plain_fields", "read_events"]

STDOUT = Path("-")


@contextmanager
def events_file(path: Path) -> Iterator[Listener]:
    """Opens a file ("-": stdout) and gives the listener that writes each event to it at once.

    Raises:
        OSError: The file cannot be written.
    """
    if path == STDOUT:
        yield _writer(sys.stdout)
    else:
        with path.open("w", encoding="utf-8") as file:
            yield _writer(file)


def event_line(response: pb.StylizeResponse) -> str:
    """Returns one event as a JSON object on one line, without the pictures' bytes.

    Keys: `sequence`, `event` (its name), `eventTime`, then the event's own fields in proto JSON names, defaults
    included. Numbers are numbers (protobuf's own JSON makes strings of 64-bit ones); NaN and infinities are strings,
    as JSON has no others.
    """
    name = response.WhichOneof("event")
    line = {"sequence": response.sequence, "event": name, "eventTime": response.event_time.ToJsonString()}
    return json.dumps({**line, **plain_fields(getattr(response, name))} if name else line)


def read_events(path: Path) -> Iterator[pb.StylizeResponse]:
    """Reads back what `events_file` wrote; pictures are not in it.

    Raises:
        OSError: The file cannot be read.
        RequestError: A line is no event.
    """
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                common = {key: line.pop(key) for key in ("sequence", "eventTime")}
                message = {**common, line.pop("event"): line}
                yield json_format.ParseDict(message, pb.StylizeResponse(), ignore_unknown_fields=True)
            except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
                raise RequestError(f"{path}: line {number} is no event as --events writes them") from error


def _writer(file: TextIO) -> Listener:
    def write(response: pb.StylizeResponse) -> None:
        file.write(event_line(response) + "\n")
        file.flush()  # somebody may be following the file

    return write


def plain_fields(message: Message) -> dict[str, Any]:
    """Returns a message's fields by their proto JSON names, without pictures; numbers stay numbers."""
    return {
        field.json_name: _value(message, field)
        for field in message.DESCRIPTOR.fields
        if field.type != FieldDescriptor.TYPE_BYTES
        and field.message_type != pb.Image.DESCRIPTOR
        and (not field.has_presence or message.HasField(field.name))
    }


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    return [_plain(item, field) for item in value] if field.is_repeated else _plain(value, field)


def _plain(value: Any, field: Any) -> Any:
    if isinstance(value, Duration | Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return plain_fields(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name if value in field.enum_type.values_by_number else value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
