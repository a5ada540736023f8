"""Tokens for tests."""

from __future__ import annotations

import hashlib


def hashed(token: str) -> str:
    """As a tokens file has it."""
    return hashlib.sha256(token.encode()).hexdigest()


def line(name: str, token: str) -> str:
    return f"{name} {hashed(token)}\n"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)
