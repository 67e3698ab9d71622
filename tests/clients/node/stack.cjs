// What run.py has started, as tests use it.
"use strict";

const assert = require("node:assert/strict");

const { FUNCTION_URL, FAILING_URL, PAGE_URL, ALLOWED_PORT, TABLE_URL } = process.env;

// A user of their own for a test, with a session to call with and some others.
async function newUser({ others }) {
  const { user, session, token } = await table("POST", `/users?others=${others}`);
  return {
    token,
    cookie: `ory_kratos_session=${token}`,
    // How many of the others are revoked. The caller's own session never is.
    async signedOut() {
      const { [session]: own, ...others } = await statuses(user);
      assert.equal(own, "active");
      return Object.values(others).filter((status) => status === "revoked").length;
    },
  };
}

// The statuses of a user's sessions in the table, by session id.
function statuses(user) {
  return table("GET", `/users/${user}`);
}

// Makes the next requests to DynamoDB of the function at FAILING_URL fail.
async function fail(requests) {
  await table("POST", `/outage?requests=${requests}`);
}

async function table(method, path) {
  const answer = await fetch(TABLE_URL + path, { method });
  assert.equal(answer.status, 200);
  return answer.json();
}

module.exports = { FUNCTION_URL, FAILING_URL, PAGE_URL, ALLOWED_PORT, newUser, statuses, fail };
