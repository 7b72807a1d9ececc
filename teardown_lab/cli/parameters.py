"""What a flag's value may be, where click's own types take too much."""

import math
import re
from difflib import get_close_matches
from typing import Any, Final

import click

SECONDS_MAX: Final = 86_400.0
"""A day: far beyond any teardown, and far below what timers and queues can count."""

BROKER_WORDS: Final = ("auto", "simulated")
_SCHEMES: Final = ("amqp://", "amqps://")
_HOST: Final = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*)(?P<port>:\d{1,5})?(?P<rest>/.*)?")


class Duration(click.FloatRange):
    """A number of seconds, from a least one to a day; `nan` compares with nothing, so is none."""

    name = "seconds"

    def __init__(self, seconds_min: float) -> None:
        super().__init__(min=seconds_min, max=SECONDS_MAX)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Broker(click.types.StringParamType):
    """`auto`, `simulated`, or a URL that a connection can be made with; never shows a password."""

    name = "broker"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word or the URL as it is."""
        text = str(value)
        if text in BROKER_WORDS:
            return text
        problem = _problem_of_url(text) if text.startswith(_SCHEMES) else _problem_of_word(text)
        if problem:
            self.fail(problem, param, ctx)
        return text


def _problem_of_url(url: str) -> str:
    """Return what is wrong with a URL; empty: nothing that can be seen from here."""
    from service_runtime.amqp.endpoint import Endpoint, EndpointError
    from teardown_lab.broker.address import without_password

    try:
        for endpoint in Endpoint(url).each():
            endpoint.parameters()
    except EndpointError as error:
        return f"{without_password(url)} is not a broker's URL: {error}"
    return ""


def _problem_of_word(text: str) -> str:
    """Return what is wrong with what is neither word nor URL, and what may be meant."""
    valid = "write auto, simulated, or a URL such as amqp://user:password@host:5672/%2F"
    place = text.rpartition("://")[2].rpartition("@")[2]
    host = _HOST.fullmatch(place)
    if host is None:  # it could be anything, a password too
        return valid
    named = repr(text) if text == place else repr(place)
    close = get_close_matches(text, BROKER_WORDS, n=1)
    if close:
        return f"{named} is no broker; did you mean {close[0]}? Else {valid}"
    if text.startswith(("http://", "https://")):
        web = f"amqp://{host['host']}:5672"
        return f"{named} is a web page's address; AMQP has its own port: try {web}"
    if host["port"] or "." in host["host"] or host["host"] == "localhost":
        return f"{named} has no scheme; did you mean amqp://{place}? Else {valid}"
    return f"{named} is no broker; {valid}"


broker_option = click.option(
    "--broker",
    type=Broker(),
    default="auto",
    show_default=True,
    help="auto, simulated, or a URL",
)
"""The option that every command with a broker has."""
