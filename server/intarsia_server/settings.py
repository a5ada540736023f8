"""Every knob of the server, from the environment (INTARSIA_...) or the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from intarsia.channel import is_local
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from intarsia_server.engine.request import SegmentationModel
from intarsia_server.logs import LogFormat


def _from_json(value: object) -> object:
    """Decodes here, not in pydantic-settings: its own error does not name the variable as ours do."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError("is not JSON") from error


_OptionalFile = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
"""A variable that is set to nothing names no file; the empty path would be the working folder."""


class Settings(BaseSettings):
    """Settings of a server; docs/operations.md lists them for operators."""

    model_config = SettingsConfigDict(env_prefix="INTARSIA_", frozen=True)

    address: str = Field("127.0.0.1:50051", description="HOST:PORT or unix:PATH to listen on.")
    devices: Annotated[list[str], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=list,
        description='Devices to run one worker on each, as JSON: ["cuda:0"]. Empty: all GPUs, else the CPU.',
    )
    threads: int = Field(
        0, ge=0, description="CPU threads of each CPU worker; 0: the process's cores, divided among those workers."
    )
    executor: Literal["local", "ray"] = Field(
        "local", description="Where workers run: processes on this computer, or actors of a Ray cluster."
    )
    ray_address: str = Field(
        "", description='Cluster to join, HOST:PORT or "auto"; empty: one of its own is started on this computer.'
    )
    ray_namespace: str = Field(
        "intarsia", min_length=1, description="Of the actors' names; each server in a cluster needs one of its own."
    )
    ray_helpers: int = Field(
        0, ge=0, description="Actors beside each worker that see some of the tiles of its large pictures."
    )
    encoder: str = Field("embedded", description="Encoder that is loaded at the start and used by default.")
    encoder_files: Annotated[dict[str, Path], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=dict, description='Further encoders, as JSON: {"name": "/path/to/vgg19.pth"}.'
    )
    segmentation_files: Annotated[dict[SegmentationModel, Path], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=dict,
        description='Weights of automatic segmentation, as JSON: {"fcn_resnet101": "/path/to/weights.pth"}.',
    )
    allow_download: bool = Field(False, description="Let the server fetch torchvision's weights from the hub.")
    target_cache_mib: int = Field(
        128, ge=0, description="Memory in which each worker keeps statistics of style images, in MiB; 0 keeps none."
    )
    memory_mib: int = Field(
        0,
        ge=0,
        description="Memory that each worker may hold, in MiB; what takes more is done in tiles. 0: most.",
    )
    data_dir: Path | None = Field(
        None, description="Folder for jobs, inputs, results, checkpoints and uploads. None: a temporary one."
    )
    retention_seconds: float = Field(86_400.0, gt=0, description="How long a job is kept after its end.")
    retention_mib: int = Field(
        1024, ge=0, description="Room for results, in MiB; beyond it the jobs that ended first are forgotten."
    )
    checkpoint_seconds: float = Field(
        5.0, ge=0, description="From one checkpoint of a running job to the next, at least; 0 writes none."
    )
    queue_capacity: int = Field(16, ge=0, description="Jobs that may wait.")
    queue_mib: int = Field(0, ge=0, description="Memory that waiting jobs may be thought to take, in MiB; 0: no limit.")
    client_jobs: int = Field(0, ge=0, description="Jobs of one client that may wait or run; 0: no limit.")
    max_pixels: int = Field(36_000_000, ge=1024, description="Largest picture that is decoded or made, in pixels.")
    max_message_bytes: int = Field(64 * 2**20, ge=2**20, description="Largest message that is taken.")
    max_upload_bytes: int = Field(256 * 2**20, ge=2**20, description="Largest picture that is taken as an upload.")
    max_client_upload_bytes: int = Field(2**30, ge=2**20, description="Uploads kept for one client, together.")
    max_total_upload_bytes: int = Field(4 * 2**30, ge=2**20, description="Uploads kept for all clients, together.")
    max_client_uploads: int = Field(16, ge=1, description="Uploads of one client that may be incomplete at a time.")
    max_total_uploads: int = Field(256, ge=1, description="Uploads of all clients that may be incomplete at a time.")
    max_request_bytes: int = Field(256 * 2**20, ge=2**20, description="Uploads that one request refers to, together.")
    upload_seconds: float = Field(3600.0, gt=0, description="How long an upload is kept that nobody uses.")
    result_chunk_bytes: int = Field(2**20, ge=1024, description="Results above this size are sent in chunks of it.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="Silence after which a stream gets a heartbeat.")
    drain_seconds: float = Field(30.0, ge=0, description="What running jobs are given after SIGTERM.")
    tls_certificate: _OptionalFile = Field(None, description="Certificate chain to show, PEM; TLS is on with it.")
    tls_key: _OptionalFile = Field(None, description="The certificate's key, PEM.")
    tls_client_ca: _OptionalFile = Field(
        None, description="Authorities, PEM; every client then needs a certificate of theirs."
    )
    tokens_file: _OptionalFile = Field(None, description="Hashes of tokens; every call then needs one of them.")
    plaintext: Literal["refused", "allowed"] = Field(
        "refused", description="Plain text on an address that is neither loopback nor a Unix socket."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: LogFormat = Field("text", description="Lines for people, or one JSON object a line.")
    metrics_address: str = Field(
        "", pattern=r"^(.+:\d{1,5})?$", description="HOST:PORT for Prometheus; empty: no metrics."
    )

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names that a request may ask for."""
        return ("embedded", "torchvision", *self.encoder_files)

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if self.encoder not in self.encoders:
            raise ValueError(f"INTARSIA_ENCODER: {self.encoder!r} is none of {', '.join(self.encoders)}")
        return self

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("INTARSIA_TLS_CERTIFICATE, INTARSIA_TLS_KEY: one is of no use without the other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("INTARSIA_TLS_CLIENT_CA: of no use without INTARSIA_TLS_CERTIFICATE and INTARSIA_TLS_KEY")
        if self.tls_certificate is not None or is_local(self.address):
            return self
        remedy = "set INTARSIA_TLS_CERTIFICATE and INTARSIA_TLS_KEY, or listen on loopback or a Unix socket"
        if self.tokens_file is not None:
            raise ValueError(f"INTARSIA_TOKENS_FILE: tokens do not go in plain text to {self.address}: {remedy}")
        if self.plaintext == "refused":
            raise ValueError(
                f"INTARSIA_PLAINTEXT: anybody on the way could read and change what goes to {self.address}: {remedy}; "
                "or say INTARSIA_PLAINTEXT=allowed"
            )
        return self
