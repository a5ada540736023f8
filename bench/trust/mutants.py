"""Rubbish of all kinds: pictures and messages that were good once, and messages that never were."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from bench.trust.samples import pictures

NUMBERS = (0, 1, 2, 3, 7, 31, 32, 64, 255, 256, 4096, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Where programs go wrong."""
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, 1e12, 1e6, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "embedded", "torchvision", "../../etc/passwd", "\0", "\u202e\U0001f4a9" * 9, "x" * 100_000, "%s%n")

Chance = random.Random
"""All that is drawn comes from one of these, so that a seed brings a mutant back."""


def mutated_bytes(data: bytes, chance: Chance) -> bytes:
    """A file or message that is not quite what it was: flipped bits, lost, doubled or foreign pieces."""
    mutant = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not mutant:
            break
        start = chance.randrange(len(mutant))
        stop = min(len(mutant), start + chance.choice((1, 2, 4, 16, 256)))
        match chance.randrange(7):
            case 0 | 1:
                mutant[start] ^= 1 << chance.randrange(8)
            case 2:
                del mutant[start:]
            case 3:
                del mutant[start:stop]
            case 4:
                mutant[start:start] = mutant[start:stop]
            case 5:
                mutant[start:stop] = chance.randbytes(stop - start)
            case _:
                value = chance.choice(NUMBERS)
                mutant[start : start + 4] = struct.pack(chance.choice((">I", "<I")), value)
    return bytes(mutant)


def mutated_picture(chance: Chance) -> bytes:
    """A picture file with something wrong, which its own checksums do not always tell."""
    files = pictures()
    data = files[chance.choice(sorted(files))]
    lie = chance.choice((_lie_about_size, _bomb, mutated_bytes, mutated_bytes, mutated_bytes, _mended))
    return lie(data, chance)


def _lie_about_size(data: bytes, chance: Chance) -> bytes:
    """Another size in the header of a file, whatever its kind."""
    size = [chance.choice((0, 1, 31, 63, 65, 200, 255, 65_535, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    mutant = bytearray(data)
    if data.startswith(b"\x89PNG"):
        mutant[16:24] = struct.pack(">II", *size)
    elif data.startswith(b"BM"):
        mutant[18:26] = struct.pack("<II", *size)
    elif (start := data.find(b"\xff\xc0")) >= 0:
        mutant[start + 5 : start + 9] = struct.pack(">HH", *(side & 0xFFFF for side in size))
    else:
        return mutated_bytes(data[:64], chance) + data[64:]
    return _with_checksums(bytes(mutant))


def _bomb(data: bytes, chance: Chance) -> bytes:
    """A PNG of a few kilobytes that holds megabytes, or says so; in its pixels, its text or its profile."""
    side = chance.choice((255, 256, 257, 1000, 20_000, 2**31 - 1))
    zeros = zlib.compress(bytes(min(side * 3 + 1, 2000) * min(side, 2000)), 9)
    header = struct.pack(">IIBBBBB", side, side, chance.choice((8, 16, 1)), chance.choice((0, 2, 3, 6)), 0, 0, 0)
    extra = chance.choice((b"iCCP", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"eXIf"))
    prefix = b"key\0\1\0\0\0" if extra == b"iTXt" else b"key\0\0"
    chunks = [(b"IHDR", header), (extra, prefix + zeros), (b"IDAT", zeros), (b"IEND", b"")]
    del data
    return _png(chunks)


def _mended(data: bytes, chance: Chance) -> bytes:
    """Mutated, with checksums that say that all is well."""
    return _with_checksums(mutated_bytes(data, chance))


def _with_checksums(data: bytes) -> bytes:
    """A PNG as far as its chunks can be followed; anything else as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    chunks, start = [], 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    return _png(chunks)


def _png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def mutated_message(message: Message, chance: Chance) -> Message:
    """A copy with some fields set, cleared, doubled or replaced, at any depth."""
    mutant = type(message)()
    mutant.CopyFrom(message)
    for _ in range(chance.choice((1, 1, 2, 5))):
        _mutate_field(_somewhere_in(mutant, chance), chance)
    return mutant


def random_message(kind: type[Message], chance: Chance) -> Message:
    """A message in which anything may be set."""
    message = kind()
    _fill(message, chance, depth=3)
    return message


def _fill(message: Message, chance: Chance, depth: int) -> None:
    fields = _fields(message)
    for field in chance.sample(fields, chance.randint(0, len(fields))):
        if field.message_type is None:
            _set(message, field, chance)
        elif depth:
            child = getattr(message, field.name)
            for each in [child.add() for _ in range(chance.choice((0, 1, 2, 5)))] if field.is_repeated else [child]:
                if not field.is_repeated:
                    each.SetInParent()
                _fill(each, chance, depth - 1)


def _fields(message: Message) -> list[Any]:
    """Descriptors of all that may be set in it."""
    return list(message.DESCRIPTOR.fields)


def _somewhere_in(message: Message, chance: Chance) -> Message:
    """The message itself or one in it."""
    children: list[Message] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            children += value if field.is_repeated else [value]
    if children and chance.random() < 0.6:
        return _somewhere_in(chance.choice(children), chance)
    return message


def _mutate_field(message: Message, chance: Chance) -> None:
    fields = _fields(message)
    if not fields:
        return
    field = chance.choice(fields)
    act = chance.randrange(4)
    if act == 0:
        message.ClearField(field.name)
    elif field.message_type is None:
        _set(message, field, chance)
    elif field.is_repeated:
        items = getattr(message, field.name)
        for _ in range(chance.choice((1, 2, 300))):
            items.add().CopyFrom(items[0]) if act == 1 and items else items.add()
    else:
        child = getattr(message, field.name)
        child.SetInParent()
        if child.DESCRIPTOR.name == "Image":
            child.data = mutated_picture(chance)
        elif act != 1:
            _mutate_field(child, chance)


def _set(message: Message, field: Any, chance: Chance) -> None:
    values: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_BOOL: lambda: chance.random() < 0.5,
        FieldDescriptor.CPPTYPE_ENUM: lambda: chance.choice((0, 1, 2, 3, 4, 99, -1)),
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: chance.choice(REALS),
        FieldDescriptor.CPPTYPE_STRING: lambda: _text(getattr(message, field.name), field, chance),
    }
    value = values.get(field.cpp_type, lambda: _number(field, chance))
    if field.is_repeated:
        getattr(message, field.name).extend([value() for _ in range(chance.choice((1, 2, 5000)))])
    else:
        setattr(message, field.name, value())


def _number(field: Any, chance: Chance) -> int:
    bits = 64 if field.cpp_type in {FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_INT64} else 32
    signed = field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
    number: int = chance.choice((*NUMBERS, 2**64 - 1, chance.getrandbits(64))) % 2**bits
    return number - 2 ** (bits - 1) if signed else number


def _text(old: str | bytes, field: Any, chance: Chance) -> str | bytes:
    if field.type != FieldDescriptor.TYPE_BYTES:
        return chance.choice(TEXTS)
    return chance.choice((b"", mutated_picture(chance), mutated_bytes(old if isinstance(old, bytes) else b"", chance)))
