"""Who may enter: TLS, tokens, and what SIGHUP reads again."""

from __future__ import annotations

import logging

import grpc

from intarsia_server.rpc.authentication import TokenInterceptor
from intarsia_server.rpc.certificates import AccessFileError, Certificates
from intarsia_server.rpc.tokens import Tokens
from intarsia_server.settings import Settings

log = logging.getLogger(__name__)


class Access:
    """What the settings say about who may enter.

    Raises:
        AccessFileError: a file that they name cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._certificates = (
            Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            if settings.tls_certificate is not None and settings.tls_key is not None
            else None
        )
        self._tokens = Tokens(settings.tokens_file) if settings.tokens_file is not None else None
        self._reloaded = {"certificates": self._certificates, "tokens": self._tokens}

    @property
    def interceptors(self) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """To stand before all that serve; only what counts calls stands before them."""
        return () if self._tokens is None else (TokenInterceptor(self._tokens),)

    @property
    def reloadable(self) -> bool:
        """Whether there is a file to read again."""
        return any(part is not None for part in self._reloaded.values())

    def listen(self, server: grpc.aio.Server, address: str) -> None:
        """Opens the server's port.

        Raises:
            RuntimeError: it cannot be opened.
        """
        if self._certificates is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, self._certificates.credentials())

    def reload(self) -> None:
        """Reads the files again; what cannot be used is logged, and what was there before stays in use."""
        for name, part in self._reloaded.items():
            if part is None:
                continue
            try:
                part.reload()
            except AccessFileError as error:
                log.error("%s stay as they were: %s", name, error)  # noqa: TRY400 - no defect, no traceback
            else:
                log.info("%s read again", name)
