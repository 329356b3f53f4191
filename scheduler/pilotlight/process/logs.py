"""Structured logs, the same in every process.

Get a logger with `structlog.get_logger()` and name what happened, with values
beside it: `log.info("start done", model=model, ready_seconds=1.2)`. Ids that
belong to a task (request_id, decision_id, step_id) are bound once, with
`structlog.contextvars.bound_contextvars(...)`, and are in every line below it,
those of libraries included.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import msgspec
import structlog

from pilotlight.process.log_options import LogFormat, LogLevel

# Libraries that tell at INFO what is worth a line only when hunting a bug.
_CHATTY = ("alembic", "asyncio", "httpcore", "httpx", "uvicorn.access")


def configure_logs(
    format: LogFormat = "auto", level: LogLevel = "info", *, stream: TextIO | None = None
) -> None:
    """Send all logs of this process, libraries' included, to `stream` (stderr).

    "auto" writes for people where the stream is a terminal, else one JSON
    object a line. Call it once, when the process starts.
    """
    target = sys.stderr if stream is None else stream
    is_console = format == "console" or (format == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(_formatter(is_console=is_console, has_colors=target.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]


def _formatter(*, is_console: bool, has_colors: bool) -> logging.Formatter:
    renderers: list[structlog.typing.Processor]
    if is_console:
        renderers = [structlog.dev.ConsoleRenderer(colors=has_colors)]
    else:
        renderers = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared_processors(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
