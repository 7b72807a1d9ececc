"""structlog set-up: JSON lines on stderr, one for each observation; pretty only on a terminal."""

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any, Final

import structlog

from vm_protocol.observations import Event
from vm_protocol.wire import Record

_WARNINGS: Final = frozenset(
    {
        Event.MESSAGE_RETURNED,
        Event.MESSAGE_SKIPPED,
        Event.MANAGER_TOOK_OVER,
        Event.TEARDOWN_STUCK,
        Event.HOST_LOST,
        Event.HOST_LAPSED,
        Event.DEAD_LETTER_CLASSIFIED,
        Event.DEAD_LETTER_REPUBLISHED,
    }
)
_STATES: Final = frozenset(
    {
        Event.VM_CREATED,
        Event.VM_FREED,
        Event.VM_REMOVED,
        Event.TEARDOWN_STARTED,
        Event.VCPU_FREED,
        Event.RUN_STARTED,
        Event.RUN_FINISHED,
    }
)
_NOT_LOGGED: Final = ("body", "ordering")
"""Details that are payloads; the history has them."""

_COMMON: Final[tuple[structlog.typing.Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)

_NUMBERS: Final = logging.getLevelNamesMapping()
_least: Final = {"level": logging.NOTSET}
"""The least level that is written: most observations are below it, and cost nothing then."""


def configure(level: str) -> None:
    """Configure structlog once, before the first line.

    Args:
        level: A name of logging's levels, e.g. "info".

    Raises:
        ValueError: The level is none of logging's.
    """
    number = _NUMBERS.get(level.upper())
    if number is None:
        raise ValueError(f"LOG_LEVEL: {level!r} is none of debug, info, warning, error")
    renderer = _renderer()
    structlog.configure(
        processors=[*_COMMON, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    _least["level"] = number
    _have_libraries_log(renderer, max(number, logging.WARNING))


def _renderer() -> structlog.typing.Processor:
    """Return what makes a line: JSON, or on a terminal what people read, coloured if it can."""
    if not sys.stderr.isatty():
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=os.environ.get("TERM") != "dumb")


def _have_libraries_log(renderer: structlog.typing.Processor, level: int) -> None:
    """Have what libraries log, and Python's warnings, stand in the same form as our own lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_COMMON, structlog.stdlib.add_logger_name, _of_library],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # the driver says what became of it


def _of_library(_: Any, __: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Give a library's text the form of our lines, whose event is a name."""
    return {**fields, "event": "library.logged", "text": fields["event"]}


def catch_what_nobody_does() -> None:
    """Have exceptions that end a thread, or that Python can only write down, stand in the log.

    Python writes each as a traceback of many lines, which no reader of JSON takes.
    """

    def unraisable(what: Any) -> None:
        _nobody_caught(what.exc_type, what.exc_value, what.exc_traceback)

    def of_thread(what: threading.ExceptHookArgs) -> None:
        _nobody_caught(what.exc_type, what.exc_value, what.exc_traceback)

    sys.excepthook = _nobody_caught
    sys.unraisablehook = unraisable
    threading.excepthook = of_thread


def _nobody_caught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    why = repr(error) if error is not None else kind.__name__
    exc_info = (kind, error, trace) if error is not None else None
    structlog.get_logger().error("exception.uncaught", why=why, exc_info=exc_info)


def spare_others() -> None:
    """Log warnings only, on stderr, inside another program that has not configured structlog.

    Unconfigured, structlog prints everything on stdout. The standard library's logging stays as
    that program has it.
    """
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def level_of(record: Record) -> str:
    """Return the level of an observation: steps are debug, states info, oddities warnings."""
    if record.event in _WARNINGS:
        return "warning"
    if record.event == Event.MESSAGE_REJECTED and not record.details.get("requeue"):
        return "warning"
    return "info" if record.event in _STATES else "debug"


def log(record: Record) -> None:
    """Write an observation as one line, if its level is written at all."""
    level = level_of(record)
    if _NUMBERS[level.upper()] < _least["level"]:
        return
    fields = {
        "actor": record.actor,
        "vm": record.vm,
        "vcpu": record.vcpu,
        "step": record.step,
        "message_id": record.message_id,
        "caused_by": record.caused_by,
        "traceparent": record.traceparent,
    }
    details = {key: value for key, value in record.details.items() if key not in _NOT_LOGGED}
    said = {key: value for key, value in {**fields, **details}.items() if value is not None}
    getattr(structlog.get_logger(), level)(str(record.event), **said)
