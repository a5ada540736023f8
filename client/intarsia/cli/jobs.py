"""`intarsia jobs`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console

from intarsia.cli.aside import Aside
from intarsia.cli.connect import LastingServerOption, lasting_server, open_client, with_access_options
from intarsia.cli.events import STDOUT, events_file, plain_fields
from intarsia.cli.failures import CANCELLED
from intarsia.cli.job import Listener
from intarsia.cli.job_ids import find_job
from intarsia.cli.job_tables import job_table, jobs_table
from intarsia.cli.outputs import IMAGE_FORMATS, check_output, write_json
from intarsia.cli.progress import progress_display
from intarsia.errors import RequestError
from intarsia.jobs import state_name, state_names

__all__ = ["app"]

app = typer.Typer(name="jobs", no_args_is_help=True, help="Jobs that a server keeps.")

JobArgument: TypeAlias = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or how it begins.")]
JsonOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write all of it; '-': to stdout, and the table to stderr."),
]

_MOST_PER_PAGE = 1000
_PURPOSE = "this command"


@app.command("list")
@with_access_options
def list_jobs(
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help=f"Only those: {', '.join(state_names())}.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many.", min=1)] = 50,
    json_file: JsonOption = None,
    server: LastingServerOption = None,
) -> None:
    """List your jobs, newest first."""
    _check_json(json_file)
    with open_client(lasting_server(server, _PURPOSE)) as client:
        jobs = list(islice(client.list_jobs(state or (), page_size=min(limit, _MOST_PER_PAGE)), limit))
    if json_file is not None:
        write_json(json_file, {"jobs": [plain_fields(job) for job in jobs]})
    Console(stderr=json_file == STDOUT).print(jobs_table(jobs))


@app.command()
@with_access_options
def show(job: JobArgument, json_file: JsonOption = None, server: LastingServerOption = None) -> None:
    """Show how a job stands."""
    _check_json(json_file)
    with open_client(lasting_server(server, _PURPOSE)) as client:
        found = find_job(client, job)
    if json_file is not None:
        write_json(json_file, plain_fields(found))
    Console(stderr=json_file == STDOUT).print(job_table(found))


@app.command()
@with_access_options
def watch(
    job: JobArgument,
    after: Annotated[int, typer.Option(metavar="N", help="Begin after the event of that number.", min=0)] = 0,
    events: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each event as a JSON line; '-': to stdout.")
    ] = None,
    server: LastingServerOption = None,
) -> None:
    """Show a job's progress until it has ended; Ctrl-C only stops watching."""
    with ExitStack() as stack:
        client = stack.enter_context(open_client(lasting_server(server, _PURPOSE)))
        job_id = find_job(client, job).job_id
        listeners: list[Listener] = [stack.enter_context(events_file(events))] if events is not None else []
        try:
            with Aside() as aside, progress_display() as show_event, client.watch(job_id, after) as stream:
                for event in aside.events(stream):
                    for listener in (*listeners, show_event):
                        listener(event)
        except KeyboardInterrupt as error:
            sys.stderr.write(f"intarsia: no longer watching; the job goes on: intarsia jobs cancel {job_id} ends it\n")
            raise typer.Exit(CANCELLED) from error
    sys.stderr.write(f"done: intarsia jobs result {job_id} fetches the picture\n")


@app.command()
@with_access_options
def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Jobs' ids, or how they begin.")],
    server: LastingServerOption = None,
) -> None:
    """Cancel jobs; print the id and state of each."""
    with open_client(lasting_server(server, _PURPOSE)) as client:
        for job_id in [find_job(client, job).job_id for job in jobs]:  # none is cancelled if one is not to be found
            typer.echo(f"{job_id} {state_name(client.cancel_job(job_id))}")


@app.command()
@with_access_options
def result(
    job: JobArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The picture.", show_default="JOB.png, or as its format is")
    ] = None,
    server: LastingServerOption = None,
) -> None:
    """Fetch the picture of a job that is done, and print its path."""
    if output is not None:
        check_output(output, IMAGE_FORMATS)
    with open_client(lasting_server(server, _PURPOSE)) as client:
        job_id = find_job(client, job).job_id
        with Aside() as aside:
            picture = aside(lambda: client.result(job_id))
    suffix = next(suffix for suffix, name in IMAGE_FORMATS.items() if name == picture.format)
    target = output or Path(f"{picture.job_id}{suffix}")
    if IMAGE_FORMATS[target.suffix.lower()] != picture.format:
        raise RequestError(f"{target}: the picture is {picture.format}, and its file's name must end with {suffix}")
    picture.save(target)
    typer.echo(target)


def _check_json(path: Path | None) -> None:
    if path is not None and path != STDOUT:
        check_output(path, [".json"])
