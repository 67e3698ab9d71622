"""Schemathesis makes requests up from docs/openapi.yaml and looks for answers that break it.

The document's examples are checked too. The suite proves that they are the answers of every kind.
"""

import os
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from stack import FAILING_URL, FUNCTION_URL, User, fail

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "openapi.yaml"


def run(folder, url, configuration, *options):
    """Runs every check with a configuration in its own format."""
    file = folder / "schemathesis.toml"
    file.write_text(configuration)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", file, "run", DOCUMENT]
    # An SDK's base path is longer by the first part of the document's path.
    command += ["--url", url.removesuffix("/auth"), "--checks", "all", "--max-examples", "100",
                "--continue-on-failure", *options]
    result = subprocess.run(command, check=False, cwd=folder, env={**os.environ, "NO_COLOR": "1"})
    assert result.returncode == 0


def test_every_example_fits_its_schema():
    document = yaml.safe_load(DOCUMENT.read_text())
    checked = 0
    for operation in document["paths"]["/auth/sessions"].values():
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                # The references of a schema point to the components of the document.
                schema = {"allOf": [content["schema"]], "components": document["components"]}
                for example in content["examples"].values():
                    jsonschema_rs.validate(schema, example["value"])
                    checked += 1
    assert checked > 10


@pytest.mark.parametrize("scheme, value", [
    ("sessionToken", "api_key"), ("sessionCookie", "api_key"), ("bearerToken", "bearer"),
])
def test_as_a_user(tmp_path, scheme, value):
    user = User(others=3)
    run(tmp_path, FUNCTION_URL, f'[auth.openapi.{scheme}]\n{value} = "{user.token}"\n')
    assert user.signed_out() == 3


def test_as_nobody(tmp_path):
    # That a credential is malformed cannot be told by the document, which has no words for what one looks like.
    run(tmp_path, FUNCTION_URL, "[checks.positive_data_acceptance]\nexpected-statuses = [204, 400, 401]\n")


def test_while_dynamodb_fails(tmp_path):
    user = User(others=3)
    fail(requests=1_000_000)
    try:
        # A 503 is an error of the server's, but one that is documented.
        run(tmp_path, FAILING_URL, f'[auth.openapi.sessionToken]\napi_key = "{user.token}"\n',
            "--exclude-checks", "not_a_server_error", "--max-examples", "20")
    finally:
        fail(requests=0)
    assert user.signed_out() == 0
