"""What a program says to its own machine goes there directly: no web proxy of the environment is in between."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Give an environment that names no web proxy, for a program that calls nothing but its own machine.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and their like, in either case, go, and the lists of exceptions with them. urllib
    and httpx take any variable that ends so, and gRPC has grpc_proxy.
    """
    return {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}


@contextmanager
def no_proxies() -> Iterator[None]:
    """Let what is made in the block know of no web proxy: clients look for one when they are made."""
    taken = {name: os.environ.pop(name) for name in set(os.environ) - set(without_proxies(os.environ))}
    try:
        yield
    finally:
        os.environ.update(taken)
