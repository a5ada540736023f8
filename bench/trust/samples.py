"""Small good pictures and requests, for mutants to be made of."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache

import numpy as np
from google.protobuf.message import Message
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image

SIDE = 64


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@cache
def photo() -> Image.Image:
    """Colours and noise, SIDE x SIDE."""
    noise = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    ramps = np.stack([3 * rows, 3 * columns, 255 - 2 * (rows + columns) // 2], axis=-1)
    return Image.fromarray(np.clip(ramps + noise, 0, 255).astype(np.uint8))


@cache
def labels() -> Image.Image:
    """Labels 0 and 1, left and right."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[:, SIDE // 2 :] = 1
    return Image.fromarray(values)


@cache
def pictures() -> Mapping[str, bytes]:
    """Files of every kind that is decoded, good as they are."""
    rgb, grey = photo(), photo().convert("L")
    alpha = photo().convert("RGBA")
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png": encoded(rgb),
        "png labels": encoded(labels()),
        "png grey": encoded(grey),
        "png alpha": encoded(alpha),
        "png palette": encoded(rgb.quantize(16)),
        "png 16 bits": encoded(deep),
        "png 1 bit": encoded(grey.convert("1")),
        "png colour key": encoded(rgb, transparency=(0, 0, 0)),
        "jpeg": encoded(rgb, "JPEG"),
        "jpeg progressive": encoded(rgb, "JPEG", progressive=True),
        "jpeg turned": encoded(rgb, "JPEG", exif=exif),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "webp": encoded(rgb, "WEBP"),
        "webp lossless": encoded(alpha, "WEBP", lossless=True),
        "tiff": encoded(rgb, "TIFF"),
        "tiff lzw": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encoded(alpha, "TIFF", compression="tiff_adobe_deflate"),
        "tiff 16 bits": encoded(deep, "TIFF"),
        "tiff float": encoded(grey.convert("F"), "TIFF"),
        "bmp": encoded(rgb, "BMP"),
        "bmp palette": encoded(rgb.quantize(16), "BMP"),
    }


def stylize_request() -> pb.StylizeRequest:
    """A job of one step."""
    files = pictures()
    request = pb.StylizeRequest(
        content=pb.Image(data=files["png"]),
        label_map=pb.Image(data=files["png labels"]),
        segments=[pb.Segment(labels=[label], style=pb.Image(data=files["jpeg"])) for label in range(2)],
        masked_gram=pb.MaskedGramParameters(steps=1),
    )
    request.masked_gram.coarse_steps = 0
    return request


def requests() -> Mapping[str, Message]:
    """One good request for every method of the service, or as good as can be without a job to ask for."""
    job = stylize_request()
    nobody = "00000000-0000-4000-8000-000000000000"
    upload = pb.UploadRequest(upload_id="mutant", size_bytes=len(job.content.data), sha256="0" * 64)
    upload.data = job.content.data
    return {
        "Stylize": job,
        "GetJob": pb.GetJobRequest(job_id=nobody),
        "ListJobs": pb.ListJobsRequest(page_size=3),
        "CancelJob": pb.CancelJobRequest(job_id=nobody),
        "WatchJob": pb.WatchJobRequest(job_id=nobody, after_sequence=1),
        "GetResult": pb.GetResultRequest(job_id=nobody, offset=1),
        "Upload": upload,
        "GetUpload": pb.GetUploadRequest(upload_id="mutant"),
        "Segment": pb.SegmentRequest(content=job.content, label_map=job.label_map),
        "Evaluate": pb.EvaluateRequest(
            content=job.content, label_map=job.label_map, segments=job.segments, result=job.content
        ),
        "Estimate": pb.EstimateRequest(job=job),
        "GetServerInfo": pb.GetServerInfoRequest(),
    }
