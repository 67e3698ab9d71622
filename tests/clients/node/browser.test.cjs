// Web pages in a real Chromium: what the function's CORS answers and its CSRF rule come to, and the page of `make run`.
//
// `localhost` with another port is another origin on the same site; `127.0.0.1` is another site.
"use strict";

const assert = require("node:assert/strict");
const { mkdirSync, mkdtempSync, rmSync, writeFileSync } = require("node:fs");
const { createServer } = require("node:http");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { after, before, test } = require("node:test");
const { chromium } = require("playwright-core");

const { FUNCTION_URL, FAILING_URL, PAGE_URL, ALLOWED_PORT, newUser, statuses, fail } = require("./stack.cjs");

const SESSIONS = `${FUNCTION_URL}/sessions`;
const ALLOWED = `http://localhost:${ALLOWED_PORT}`;
const ALLOWED_ON_ANOTHER_SITE = `http://127.0.0.1:${ALLOWED_PORT}`;
// Known once their server runs.
let refused, refusedOnAnotherSite;

const options = {
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
};
let browser;
// A profile that lets a site's cookies be sent from other sites. Not all browsers do so any more, but those that do
// leave it to the function to tell right from wrong.
let profile;
const folder = mkdtempSync(join(tmpdir(), "browser-"));
const servers = [];

before(async () => {
  servers.push(await serve(ALLOWED_PORT), await serve(0));
  const { port } = servers[1].address();
  refused = `http://localhost:${port}`;
  refusedOnAnotherSite = `http://127.0.0.1:${port}`;
  browser = await chromium.launch(options);
  const preferences = { profile: { block_third_party_cookies: false, cookie_controls_mode: 0 } };
  mkdirSync(join(folder, "Default"));
  writeFileSync(join(folder, "Default", "Preferences"), JSON.stringify(preferences));
  profile = await chromium.launchPersistentContext(folder, options);
});

after(async () => {
  await Promise.all([browser?.close(), profile?.close()]);
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  servers.forEach((server) => server.close());
});

test("a page on an allowed origin signs the other devices out with the cookie", async () => {
  const user = await newUser({ others: 3 });
  await visit(ALLOWED, user, async (page) => {
    for (const count of [3, 0]) {
      assert.deepEqual(await call(page, SESSIONS, { credentials: "include" }), { status: 200, body: { count } });
      assert.equal(await user.signedOut(), 3);
    }
  });
});

test("a page on an allowed origin signs the other devices out with a token", async () => {
  for (const origin of [ALLOWED, ALLOWED_ON_ANOTHER_SITE]) {
    for (const header of [["X-Session-Token", ""], ["Authorization", "Bearer "]]) {
      const user = await newUser({ others: 2 });
      await visit(origin, null, async (page) => {
        const headers = { [header[0]]: header[1] + user.token, "Content-Type": "application/json" };
        assert.deepEqual(await call(page, SESSIONS, { headers }), { status: 200, body: { count: 2 } });
      });
      assert.equal(await user.signedOut(), 2);
    }
  }
});

test("a page on an allowed origin may set any header", async () => {
  for (const origin of [ALLOWED, ALLOWED_ON_ANOTHER_SITE]) {
    const user = await newUser({ others: 2 });
    await visit(origin, null, async (page) => {
      const headers = {
        "X-Session-Token": user.token, "X-Requested-With": "XMLHttpRequest", "sentry-trace": "1-2-1", baggage: "a=b",
        "HX-Request": "true",
      };
      assert.deepEqual(await call(page, SESSIONS, { headers }), { status: 200, body: { count: 2 } });
    });
    assert.equal(await user.signedOut(), 2);
  }
});

test("a page of the function's own host may call, with any referrer policy", async () => {
  for (const referrerPolicy of ["strict-origin-when-cross-origin", "no-referrer"]) {
    const user = await newUser({ others: 2 });
    await visit(`${SESSIONS}/no-such-page`, user, async (page) => {
      const sent = page.waitForRequest((request) => request.method() === "DELETE");
      assert.deepEqual(await call(page, SESSIONS, { referrerPolicy }), { status: 200, body: { count: 2 } });
      assert.equal((await (await sent).allHeaders())["sec-fetch-site"], "same-origin");
    });
    assert.equal(await user.signedOut(), 2);
  }
});

test("a page on an allowed origin of another site gets the cookie if it is for all sites", async () => {
  const user = await newUser({ others: 1 });
  await visit(ALLOWED_ON_ANOTHER_SITE, user, async (page) => {
    const { status } = await call(page, SESSIONS, { credentials: "include" });
    assert.equal(status, 401, "a cookie with SameSite=Lax was sent from another site");
    assert.equal(await user.signedOut(), 0);
  });
  await visit(ALLOWED_ON_ANOTHER_SITE, { ...user, sameSite: "None" }, async (page) => {
    assert.deepEqual(await call(page, SESSIONS, { credentials: "include" }), { status: 200, body: { count: 1 } });
    assert.equal(await user.signedOut(), 1);
  });
});

test("a page on any other origin gets nothing and does nothing", async () => {
  for (const origin of [refused, refusedOnAnotherSite]) {
    const user = await newUser({ others: 1 });
    await visit(origin, { ...user, sameSite: "None" }, async (page) => {
      for (const init of [
        { credentials: "include" },
        { headers: { "X-Session-Token": user.token } },
        { headers: { Authorization: `Bearer ${user.token}` } },
        { method: "POST", credentials: "include" },
        { method: "GET", credentials: "include" },
      ]) {
        assert.deepEqual(await call(page, SESSIONS, init), { error: "TypeError" }, JSON.stringify(init));
      }
      const { error } = await call(page, SESSIONS, { mode: "no-cors", credentials: "include" });
      assert.equal(error, "TypeError", "a browser never sends DELETE without asking first");
    });
    assert.equal(await user.signedOut(), 0);
  }
});

test("a page without an origin gets nothing and does nothing", async () => {
  const script = (init) => `<script>
    fetch(${JSON.stringify(SESSIONS)}, ${JSON.stringify({ method: "DELETE", ...init })})
      .then((answer) => answer.status, (error) => error.name)
      .then((outcome) => parent.postMessage({ origin, outcome }, "*"));
  </script>`;
  for (const origin of [ALLOWED, refusedOnAnotherSite]) {
    const user = await newUser({ others: 1 });
    await visit(origin, { ...user, sameSite: "None" }, async (page) => {
      for (const init of [{ credentials: "include" }, { headers: { "X-Session-Token": user.token } }]) {
        for (const attributes of [
          { sandbox: "allow-scripts", srcdoc: script(init) },
          { src: `data:text/html,${encodeURIComponent(script(init))}` },
        ]) {
          const told = await page.evaluate((attributes) => new Promise((resolve) => {
            addEventListener("message", (event) => resolve(event.data), { once: true });
            document.body.append(Object.assign(document.createElement("iframe"), attributes));
          }), attributes);
          assert.deepEqual(told, { origin: "null", outcome: "TypeError" });
        }
      }
    });
    assert.equal(await user.signedOut(), 0);
  }
});

test("a form cannot pretend to be a DELETE", async () => {
  for (const origin of [refused, refusedOnAnotherSite, ALLOWED]) {
    for (const method of ["POST", "GET"]) {
      for (const action of [SESSIONS, `${SESSIONS}?_method=DELETE`]) {
        const user = await newUser({ others: 1 });
        await visit(origin, { ...user, sameSite: "None" }, async (page) => {
          await page.setContent(`<form method="${method}" action="${action}"><input name="_method" value="DELETE">`);
          const [answer] = await Promise.all([
            page.waitForResponse((answer) => answer.url().startsWith(SESSIONS)),
            page.evaluate(() => document.forms[0].submit()),
          ]);
          assert.equal((await answer.request().allHeaders()).cookie, user.cookie, "the test is of no use without");
          assert.equal(answer.status(), 405);
          assert.equal((await answer.json()).error.id, "method_not_allowed");
        });
        assert.equal(await user.signedOut(), 0);
      }
    }
  }
});

test("a page on an allowed origin can read every error", async () => {
  const user = await newUser({ others: 1 });
  const credentials = "include";
  await visit(ALLOWED, null, async (page) => {
    for (const [url, init, status, id] of [
      [SESSIONS, {}, 401, "session_inactive"],
      [SESSIONS, { credentials }, 401, "session_inactive"],
      [SESSIONS, { headers: { "X-Session-Token": "unknown" } }, 401, "session_inactive"],
      [SESSIONS, { headers: { "X-Session-Token": "not a token" } }, 400, "malformed_credentials"],
      [`${SESSIONS}/some-id`, { method: "POST", credentials }, 404, "route_not_found"],
      [SESSIONS, { method: "POST", credentials }, 405, "method_not_allowed"],
    ]) {
      const { status: answered, body, error } = await call(page, url, init);
      assert.deepEqual([answered, body?.error.code, body?.error.id, error], [status, status, id, undefined]);
    }
    // What a browser asks for first is refused.
    for (const [url, method] of [[SESSIONS, "PUT"], [`${SESSIONS}/some-id`, "DELETE"]]) {
      assert.deepEqual(await call(page, url, { method, credentials }), { error: "TypeError" });
    }
  });
  await visit(ALLOWED, user, async (page) => {
    const { status } = await call(page, SESSIONS, { credentials: "omit" });
    assert.equal(status, 401);
    await fail(1000);
    const { status: unavailable, body } = await call(page, `${FAILING_URL}/sessions`, { credentials })
      .finally(() => fail(0));
    assert.equal(unavailable, 503);
    assert.equal(body.error.id, "temporarily_unavailable");
    assert.deepEqual(body.error.details, { revoked: 0 });
    assert.equal(await user.signedOut(), 0);
    const answer = await call(page, `${FAILING_URL}/sessions`, { credentials });
    assert.deepEqual(answer, { status: 200, body: { count: 1 } });
  });
});

test("the page of make run: the button signs out everywhere else", async () => {
  const context = await browser.newContext({ viewport: { width: 900, height: 560 } });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error));
  await page.goto(PAGE_URL);
  const here = page.getByRole("row").filter({ hasText: "this device" });
  await here.getByText("active").waitFor();
  assert.deepEqual(await states(page), { active: 4 });

  await press(page, "Sign out everywhere else");
  await page.getByRole("status").getByText("200 {\"count\":3}").waitFor();
  assert.deepEqual(await states(page), { active: 1, revoked: 3 });
  await here.getByText("active").waitFor();
  await page.mouse.move(0, 0);
  await page.screenshot({ path: process.env.SCREENSHOT, animations: "disabled" });

  await press(page, "Sign out everywhere else");
  await page.getByRole("status").getByText("200 {\"count\":0}").waitFor();
  await press(page, "Sign in on three more devices");
  assert.deepEqual(await states(page), { active: 4, revoked: 3 });
  await press(page, "Sign out everywhere else");
  await page.getByRole("status").getByText("200 {\"count\":3}").waitFor();
  assert.deepEqual(await states(page), { active: 1, revoked: 6 });
  assert.deepEqual(errors, []);
  await context.close();
});

test("the page of make run: another browser is another device", async () => {
  const contexts = [await browser.newContext(), await browser.newContext()];
  const [first, second] = await Promise.all(contexts.map((context) => context.newPage()));
  await first.goto(PAGE_URL);
  const here = first.getByRole("row").filter({ hasText: "this device" });
  await here.getByText("active").waitFor();
  // As 127.0.0.1 it would get no cookie to the function.
  await second.goto(PAGE_URL.replace("localhost", "127.0.0.1"));
  assert.equal(second.url(), PAGE_URL);
  await second.getByRole("row").filter({ hasText: "this device" }).getByText("active").waitFor();

  // The table changes before the eyes of the one who is signed out.
  await press(second, "Sign out everywhere else");
  await here.getByText("signed out by").waitFor();
  await press(first, "Sign out everywhere else");
  await first.getByRole("status").getByText("401").waitFor();
  assert.match(await first.getByRole("status").textContent(), /No active session was found.*session_inactive/);
  await first.reload();
  await here.getByText("signed out by").waitFor();
  await press(first, "Sign in again on this device");
  await here.getByText("active").waitFor();
  await press(first, "Sign out everywhere else");
  await first.getByRole("status").getByText("200 {\"count\":1}").waitFor();
  await Promise.all(contexts.map((context) => context.close()));
});

test("the page of make run: it says when there is no answer", async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(PAGE_URL);
  await page.getByRole("row").filter({ hasText: "this device" }).waitFor();
  await page.route(SESSIONS, (route) => route.abort());
  await press(page, "Sign out everywhere else");
  await page.getByRole("status").getByText("gave no answer").waitFor();
  await page.route(`${PAGE_URL}sessions`, (route) => route.abort());
  await page.getByRole("status").getByText("does not answer").waitFor();
  await context.close();
});

// Serves an empty page, as localhost and as 127.0.0.1.
function serve(port) {
  const server = createServer((_, answer) => {
    answer.setHeader("Content-Type", "text/html; charset=utf-8");
    answer.end("<!doctype html><title>Some page</title>");
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject).listen(Number(port), "127.0.0.1", () => resolve(server));
  });
}

// Opens a page on an origin in a browser that holds the session cookie of a user, if there is one, and no other.
async function visit(origin, user, use) {
  await profile.clearCookies();
  if (user) {
    const sameSite = user.sameSite ?? "Lax";
    await profile.addCookies([{
      name: "ory_kratos_session", value: user.token, domain: "localhost", path: "/", httpOnly: true, sameSite,
      secure: sameSite === "None",
    }]);
  }
  const page = await profile.newPage();
  await page.goto(origin);
  await use(page);
  await page.close();
}

// Calls as a script of the page: its answer, or the error that is all it learns.
function call(page, url, init) {
  return page.evaluate(async ([url, init]) => {
    try {
      const answer = await fetch(url, { method: "DELETE", ...init });
      return { status: answer.status, body: await answer.json() };
    } catch (error) {
      return { error: error.name };
    }
  }, [url, init]);
}

async function press(page, name) {
  const button = await page.getByRole("button", { name }).elementHandle();
  await button.click();
  // It is disabled until all is done and shown. By then, the page may have hidden it.
  await page.waitForFunction((button) => !button.disabled, button);
}

// How many sessions of the page's user have which status: by the page's rows, which agree with the table.
async function states(page) {
  const count = (list) => list.reduce((counts, key) => ({ ...counts, [key]: (counts[key] ?? 0) + 1 }), {});
  const rows = await page.locator("tbody tr").evaluateAll((rows) => rows.map((row) => {
    return row.lastChild.textContent.startsWith("signed out by") ? "revoked" : row.lastChild.textContent;
  }));
  assert.deepEqual(count(rows), count(Object.values(await statuses("dana"))));
  return count(rows);
}
