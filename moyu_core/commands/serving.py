"""`moyu serve` and `moyu worker`: the app, and what does its jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device
from moyu_core.home import Home


def serve(
    host: Annotated[str, typer.Option(help="0.0.0.0 for every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 = any free one.")] = 8501,
    read_only: Annotated[bool, typer.Option(help="Show finished runs only; no worker, no torch.")] = False,
    public: Annotated[bool, typer.Option(help="For the internet: limits, and visitors do not see each other's runs.")] = False,
    limits: Annotated[Path | None, typer.Option(help="TOML file of the limits of --public, see docs/hosting.md.")] = None,
    base_path: Annotated[
        str, typer.Option(envvar="MOYU_BASE_PATH", help="Path prefix under which a reverse proxy shows the app.")
    ] = "",
    device: Device = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Start the app and its worker."""
    from moyu_core.serve import serve as run_server

    raise typer.Exit(
        run_server(
            Home.default(),
            host,
            port,
            worker=not read_only,
            read_only=read_only,
            open_browser=open_browser,
            device=device,
            public=str(limits) if limits else "1" if public else "",
            base_path=base_path,
        )
    )


def worker(device: Device = None, once: Annotated[bool, typer.Option(help="Stop when nothing is queued.")] = False) -> None:
    """Start a worker alone, for an app that runs elsewhere on this machine."""
    from moyu_core.worker import main as run_worker

    arguments = [
        "--home",
        str(Home.default().root),
        *(["--device", device] if device else []),
        *(["--once"] if once else []),
    ]
    raise typer.Exit(run_worker(arguments))
