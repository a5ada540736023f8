"""The server's TLS certificate, and the authorities that its clients' certificates come from."""

from __future__ import annotations

import ssl
from collections import deque
from pathlib import Path

import grpc


class AccessFileError(RuntimeError):
    """A file that says who may enter cannot be used; the message names its setting, and neither path nor contents."""


class Certificates:
    """What a TLS port shows, and whom it asks for a certificate.

    Args:
        certificate: PEM, the server's own first, then those between it and the authority.
        key: PEM, not encrypted.
        client_ca: PEM, authorities; with them every client needs a certificate of theirs.

    Raises:
        AccessFileError: a file cannot be read, or is not what it should be.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._initial = self._read()
        # What the port has not heard of yet; a deque, because gRPC asks from threads of its own.
        self._fresh: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)

    def credentials(self) -> grpc.ServerCredentials:
        """For one port: it asks before every handshake whether the files have been read again."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._next,  # type: ignore[arg-type]  # gRPC's documentation has None for "as before", its types have not
            require_client_authentication=self._client_ca is not None,
        )

    def reload(self) -> None:
        """Reads the files again, for handshakes to come; connections go on as they are.

        Raises:
            AccessFileError: the files as they were stay in use.
        """
        self._fresh.append(self._read())

    def _next(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            return self._fresh.pop()
        except IndexError:
            return None  # as before: gRPC keeps what it has

    def _read(self) -> grpc.ServerCertificateConfiguration:
        # gRPC would take anything and then fail every handshake.
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            probe.load_cert_chain(self._certificate, self._key, password=lambda: b"")
            pair = (self._key.read_bytes(), self._certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise AccessFileError(f"INTARSIA_TLS_CERTIFICATE, INTARSIA_TLS_KEY: {_reason(error)}") from error
        roots = None
        if self._client_ca is not None:
            try:
                roots = self._client_ca.read_bytes()
                probe.load_verify_locations(cadata=roots.decode("ascii"))
            except (OSError, ValueError) as error:
                raise AccessFileError(f"INTARSIA_TLS_CLIENT_CA: {_reason(error)}") from error
        return grpc.ssl_server_certificate_configuration([pair], roots)


def _reason(error: Exception) -> str:
    """Without the file's path, which OSError's own text has."""
    if isinstance(error, ssl.SSLError):
        return f"not usable PEM of a certificate and its key ({error.reason or 'unreadable'})"
    return error.strerror or "unreadable" if isinstance(error, OSError) else "not usable PEM"
