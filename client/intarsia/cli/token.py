"""`intarsia token`."""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from typing import Annotated

import typer

from intarsia.errors import RequestError

__all__ = ["token"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: letters, digits, '.', '_' and '-'.")],
) -> None:
    """Make a token: its line for INTARSIA_TOKENS_FILE goes to standard output, the token itself to standard error.

    The line holds the token's hash alone. The token is shown this once and kept nowhere.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(f"'{name}' is no name of a token: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
    secret = secrets.token_urlsafe(32)
    sys.stderr.write(f"{secret}\n")
    typer.echo(f"{name} {hashlib.sha256(secret.encode()).hexdigest()}")
