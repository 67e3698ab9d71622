"""Ory's Python SDKs, as they are published."""

import time

import ory_client
import ory_kratos_client
import pytest

from stack import FAILING_URL, FUNCTION_URL, User, fail

SDKS = pytest.mark.parametrize("sdk", [ory_client, ory_kratos_client], ids=lambda sdk: sdk.__name__)


def disable_my_other_sessions(sdk, url, **credentials):
    with sdk.ApiClient(sdk.Configuration(host=url)) as client:
        return sdk.FrontendApi(client).disable_my_other_sessions(**credentials)


@SDKS
def test_a_token_signs_the_others_out(sdk):
    user = User(others=3)
    for count in (3, 0):
        answer = disable_my_other_sessions(sdk, FUNCTION_URL, x_session_token=user.token)
        assert answer == sdk.DeleteMySessionsCount(count=count)
        assert user.signed_out() == 3


@SDKS
def test_a_cookie_signs_the_others_out(sdk):
    user = User(others=2)
    cookie = f"theme=dark; ory_kratos_session={user.token}; csrf_token=a=b="
    answer = disable_my_other_sessions(sdk, FUNCTION_URL, cookie=cookie)
    assert answer == sdk.DeleteMySessionsCount(count=2)
    assert user.signed_out() == 2


@SDKS
def test_a_refusal_is_the_sdks_own_exception(sdk):
    user = User(others=1)
    for credentials, exception, status, error_id in [
        ({"x_session_token": "unknown"}, sdk.exceptions.UnauthorizedException, 401, "session_inactive"),
        ({}, sdk.exceptions.UnauthorizedException, 401, "session_inactive"),
        ({"x_session_token": "not a token"}, sdk.exceptions.BadRequestException, 400, "malformed_credentials"),
    ]:
        with pytest.raises(exception) as raised:
            disable_my_other_sessions(sdk, FUNCTION_URL, **credentials)
        assert raised.value.status == status
        assert f'"id":"{error_id}"' in raised.value.body
        assert raised.value.headers["content-type"] == "application/json"
        assert_typed(sdk, raised.value, error_id)
    assert user.signed_out() == 0


@SDKS
def test_a_short_outage_is_not_noticed(sdk):
    user = User(others=2)
    # As many as one call of the function tries, see ATTEMPTS in src/rules/budget.rs.
    fail(requests=8)
    began = time.monotonic()
    answer = disable_my_other_sessions(sdk, FAILING_URL, x_session_token=user.token)
    # The SDK has called again by itself, after as many seconds as Retry-After says.
    assert time.monotonic() - began >= 1
    assert answer == sdk.DeleteMySessionsCount(count=2)
    assert user.signed_out() == 2


@SDKS
def test_an_outage_that_lasts_is_an_exception(sdk):
    user = User(others=1)
    fail(requests=1000)
    try:
        # Only after it has called four times.
        with pytest.raises(sdk.exceptions.ServiceException) as raised:
            disable_my_other_sessions(sdk, FAILING_URL, x_session_token=user.token)
    finally:
        fail(requests=0)
    assert raised.value.status == 503
    assert user.signed_out() == 0
    answer = disable_my_other_sessions(sdk, FAILING_URL, x_session_token=user.token)
    assert answer == sdk.DeleteMySessionsCount(count=1)


def assert_typed(sdk, exception, error_id):
    if sdk is ory_client:
        # It has a type for two ids of Ory's own cloud only.
        assert exception.data is None
        return
    assert isinstance(exception.data, sdk.ErrorGeneric)
    error = exception.data.error
    assert (error.code, error.status, error.id) == (exception.status, exception.reason, error_id)
    assert error.message and error.reason and error.request
    assert (error.details, error.debug, error.additional_properties) == (None, None, {})
