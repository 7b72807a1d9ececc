"""Exchanges and bindings: which queues a message reaches (tutorials: routing; exchanges)."""

from collections.abc import Iterable

from teardown_lab.simulator.errors import NotFound, PreconditionFailed
from vm_protocol.topology import Exchange


class Routes:
    """Exchanges, and the queues that are bound to them; topics have no patterns here."""

    def __init__(self, exchanges: Iterable[Exchange] = ()) -> None:
        self._types: dict[str, str] = {}
        # exchange -> key -> queues; dicts for their order, which makes runs repeatable
        self._bound: dict[str, dict[str, dict[str, None]]] = {}
        for exchange in exchanges:
            self.declare(exchange)

    def declare(self, exchange: Exchange) -> None:
        """Declare an exchange; repeating it changes nothing.

        Raises:
            PreconditionFailed: It exists with another type.
        """
        if self._types.setdefault(exchange.name, exchange.type) != exchange.type:
            raise PreconditionFailed(f"exchange {exchange.name} is of another type")
        self._bound.setdefault(exchange.name, {})

    def has(self, exchange: str) -> bool:
        """Tell whether an exchange exists."""
        return exchange in self._types

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue; an equal binding is the same one, so a message comes once (queues).

        Raises:
            NotFound: The exchange does not exist.
        """
        if exchange not in self._types:
            raise NotFound(f"no exchange {exchange}")
        self._bound[exchange].setdefault(key, {})[queue] = None

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Unbind a queue; a binding that is not there is no error (amqp-0-9-1: idempotent)."""
        self._bound.get(exchange, {}).get(key, {}).pop(queue, None)

    def forget(self, queue: str) -> None:
        """Remove every binding of a queue that is deleted."""
        for keys in self._bound.values():
            for queues in keys.values():
                queues.pop(queue, None)

    def queues_for(self, exchange: str, key: str) -> tuple[str, ...]:
        """Return the queues that a message reaches, each once however many bindings match.

        Raises:
            NotFound: The exchange does not exist.
        """
        if exchange not in self._types:
            raise NotFound(f"no exchange {exchange}")
        keys = self._bound[exchange]
        if self._types[exchange] != "fanout":
            return tuple(keys.get(key, ()))
        return tuple(dict.fromkeys(queue for queues in keys.values() for queue in queues))
