"""``--engine``, ``--scheduler`` and ``--workers`` for commands whose work can be spread."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer

EngineOption = Annotated[
    Literal["local", "dask"], typer.Option("--engine", help="local: this machine; dask: a Dask cluster (extra dask).")
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Of a running Dask scheduler, tcp://HOST:8786.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes on this machine; by default threads of one.")
]
_OPTIONS = {"engine": (EngineOption, "local"), "scheduler": (Scheduler, None), "workers": (Workers, None)}


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of an engine; inside it, the engine is the current one."""

    @wraps(command)
    def with_engine(*arguments: Any, engine: Any, scheduler: str | None, workers: int | None, **options: Any) -> Any:
        if engine == "local" and scheduler is None and workers is None:
            return command(*arguments, **options)
        from dcmark import engine as engines

        with engines.opened(engine, workers=workers, scheduler=scheduler) as chosen, engines.use(chosen):
            return command(*arguments, **options)

    signature = inspect.signature(command)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    hints = get_type_hints(command, include_extras=True)
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, one in signature.parameters.items()
    ]
    with_engine.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    with_engine.__annotations__ = {**hints, **{name: kind for name, (kind, _) in _OPTIONS.items()}}
    return with_engine
