"""MiniStack, with the whole path in the event of a request through a custom domain.

API Gateway removes a mapping's base path to find the resource, and keeps it in the event's `path`. MiniStack removes it
there too. `main.py` runs this and prints it as BRIDGED.
"""

from contextvars import ContextVar

import ministack.app as app
import ministack.services.apigateway_v1 as gateway

base_path = ContextVar("base_path", default="")
resolve = gateway.resolve_base_path_mapping
build_event = gateway._build_lambda_event_v1


def remember_base_path(domain, path):
    """Resolves a request to a custom domain as before."""
    resolved = resolve(domain, path)
    if resolved:
        base_path.set(path.removesuffix("/").removesuffix(resolved[2].removesuffix("/")))
    return resolved


def event_with_base_path(*arguments, **options):
    """The event as before, with the base path in front of its path."""
    event = build_event(*arguments, **options)
    if base_path.get():
        event["path"] = base_path.get() + event["path"].removesuffix("/")
        event["requestContext"]["path"] = event["path"]
    return event


gateway.resolve_base_path_mapping = remember_base_path
gateway._build_lambda_event_v1 = event_with_base_path

if __name__ == "__main__":
    app.main()
