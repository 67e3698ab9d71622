"""MiniStack, with what it lacks for these tests. `main.py` runs this and prints it as BRIDGED.

The path: API Gateway removes a mapping's base path to find the resource, and keeps it in the event's `path`. MiniStack
removes it there too.

The stream: DynamoDB writes a record for each change. MiniStack writes none for an UPDATE of PartiQL.

The condition: MiniStack finds no key in a WHERE with OR. Its `<>` holds for a missing attribute, so the other half of the
condition says nothing more there.
"""

import copy
from contextvars import ContextVar

import ministack.app as app
import ministack.services.apigateway_v1 as gateway
import ministack.services.dynamodb as dynamodb

base_path = ContextVar("base_path", default="")
resolve = gateway.resolve_base_path_mapping
build_event = gateway._build_lambda_event_v1
update = dynamodb._partiql_update
parse = dynamodb._parse_partiql
NOT_REVOKED = "\"status\"<>'revoked'"


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


def update_with_record(table, statement, data=None):
    """An UPDATE as before, with a record in the table's stream."""
    hash_key, range_key, _, _ = dynamodb._partiql_key_target(table, statement)
    before = copy.deepcopy(table["items"].get(hash_key, {}).get(range_key))
    answer = update(table, statement, data)
    if answer[0] == 200:
        dynamodb._emit_stream_event(statement["table"], "MODIFY", before, table["items"][hash_key][range_key])
    return answer


def parse_without_or(statement, *arguments):
    """The statement as before, without the half of its condition that MiniStack cannot read."""
    return parse(statement.replace(f'("status" IS MISSING OR {NOT_REVOKED})', NOT_REVOKED), *arguments)


gateway.resolve_base_path_mapping = remember_base_path
gateway._build_lambda_event_v1 = event_with_base_path
dynamodb._partiql_update = update_with_record
dynamodb._parse_partiql = parse_without_or

if __name__ == "__main__":
    app.main()
