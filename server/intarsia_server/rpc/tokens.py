"""Bearer tokens: whose they are, known by their hashes alone."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from intarsia_server.rpc.certificates import AccessFileError

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64})\s+([0-9A-Fa-f]{64})")


class Tokens:
    """The tokens of a file: a line each, `NAME SHA256`, the hash in hexadecimal; blank lines and `#` comments between.

    A name may have several, so that one can take over from another. SHA-256 alone serves because tokens are random, not
    passwords: nobody can go through 2**256 of them.

    Args:
        file: `intarsia token NAME` prints its lines.

    Raises:
        AccessFileError: it cannot be read, or is not of that form.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries = self._read()

    def reload(self) -> None:
        """Reads the file again, for calls to come; those that run go on.

        Raises:
            AccessFileError: the tokens as they were stay in use.
        """
        self._entries = self._read()

    def name_of(self, token: str) -> str | None:
        """Whose token it is; None: nobody's. Takes as long whichever it is, and however much of a hash is right."""
        offered = hashlib.sha256(token.encode()).digest()
        found = None
        for digest, name in self._entries:
            if hmac.compare_digest(digest, offered):
                found = name
        return found

    def _read(self) -> tuple[tuple[bytes, str], ...]:
        try:
            lines = self._file.read_text("utf-8").splitlines()
        except OSError as error:
            raise AccessFileError(f"INTARSIA_TOKENS_FILE: {error.strerror}") from error
        except ValueError as error:
            raise AccessFileError("INTARSIA_TOKENS_FILE: not text") from error
        entries = []
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            # The line itself is not shown: it may hold a token, put there by mistake.
            if (match := _LINE.fullmatch(line)) is None:
                raise AccessFileError(f"INTARSIA_TOKENS_FILE: line {number} is not NAME and 64 hexadecimal digits")
            entries.append((bytes.fromhex(match[2]), match[1]))
        if not entries:
            raise AccessFileError("INTARSIA_TOKENS_FILE: there is no token in it")
        return tuple(entries)
