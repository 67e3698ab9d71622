// Ory's SDKs for Node.js, as they are published.
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const oryFetch = require("@ory/client-fetch");

const { FUNCTION_URL, FAILING_URL, newUser, fail } = require("./stack.cjs");

// Each as { api(url), succeeded(answer) -> count, failed(error) -> { status, headers, body } }.
const sdks = { "@ory/client": axiosSdk, "@ory/kratos-client": axiosSdk, "@ory/client-fetch": () => fetchSdk };

function axiosSdk(name) {
  const { Configuration, FrontendApi } = require(name);
  return {
    api: (url) => new FrontendApi(new Configuration({ basePath: url })),
    count: (answer) => answer.data.count,
    failed: ({ response }) => ({
      status: response.status, header: (name) => response.headers[name], body: response.data,
    }),
  };
}

const fetchSdk = {
  api: (url) => new oryFetch.FrontendApi(new oryFetch.Configuration({ basePath: url })),
  count: (answer) => answer.count,
  failed: async (error) => {
    assert.ok(oryFetch.isResponseError(error));
    const { status, headers } = error.response;
    return { status, header: (name) => headers.get(name), body: await error.response.json() };
  },
};

for (const [name, sdk] of Object.entries(sdks)) {
  const { api, count, failed } = sdk(name);
  const call = (url, credentials) => api(url).disableMyOtherSessions(credentials);
  const failure = (url, credentials) => call(url, credentials).then(
    (answer) => assert.fail(`it has succeeded: ${count(answer)}`),
    failed,
  );

  test(`${name}: a token signs the others out`, async () => {
    const user = await newUser({ others: 3 });
    for (const expected of [3, 0]) {
      assert.equal(count(await call(FUNCTION_URL, { xSessionToken: user.token })), expected);
      assert.equal(await user.signedOut(), 3);
    }
  });

  test(`${name}: a cookie signs the others out`, async () => {
    const user = await newUser({ others: 2 });
    const cookie = `theme=dark; ${user.cookie}; csrf_token=a=b=`;
    assert.equal(count(await call(FUNCTION_URL, { cookie })), 2);
    assert.equal(await user.signedOut(), 2);
  });

  test(`${name}: a refusal is an error that says why`, async () => {
    const user = await newUser({ others: 1 });
    for (const [credentials, status, id] of [
      [{ xSessionToken: "unknown" }, 401, "session_inactive"],
      [{}, 401, "session_inactive"],
      [{ xSessionToken: "not a token" }, 400, "malformed_credentials"],
    ]) {
      const { body, ...answer } = await failure(FUNCTION_URL, credentials);
      assert.equal(answer.status, status);
      assert.equal(body.error.code, status);
      assert.equal(body.error.id, id);
      assert.equal(answer.header("content-type"), "application/json");
      // What @ory/client-fetch has to tell errors apart with.
      assert.ok(oryFetch.isGenericErrorResponse(body));
      assert.equal(oryFetch.isNoActiveSession(body), status === 401);
      assert.equal(oryFetch.instanceOfErrorGeneric(body), true);
      assert.deepEqual(oryFetch.GenericErrorToJSON(oryFetch.GenericErrorFromJSON(body.error)), {
        ...body.error, debug: undefined, details: undefined, error: undefined,
      });
    }
    assert.equal(await user.signedOut(), 0);
  });

  test(`${name}: an outage is an error, and calling again mends it`, async () => {
    const user = await newUser({ others: 2 });
    await fail(1000);
    const { status, header, body } = await failure(FAILING_URL, { xSessionToken: user.token }).finally(() => fail(0));
    assert.equal(status, 503);
    assert.equal(header("retry-after"), "1");
    assert.equal(body.error.id, "temporarily_unavailable");
    assert.deepEqual(body.error.details, { revoked: 0 });
    assert.equal(await user.signedOut(), 0);
    assert.equal(count(await call(FAILING_URL, { xSessionToken: user.token })), 2);
    assert.equal(await user.signedOut(), 2);
  });
}
