/**
 * For a server that calls the function for a browser: whether the browser's request comes from a page of this application.
 *
 * `headers` are the headers of the browser's request, in the form in which your framework or gateway has them: `request.headers`
 * of Node.js, Express and Fastify, a `Headers` of the Fetch API (Next.js, Hono), or an event's `headers` or `multiValueHeaders`.
 * A form that is not understood looks like a request without headers, and is refused.
 *
 * @typedef {Iterable<[string, unknown]> | Record<string, unknown>} Headers
 */

const OWN_ORIGINS = ["https://app.example.com"];

/**
 * Answer 403 if not.
 *
 * @param {Headers} headers
 */
export function isFromOwnPage(headers) {
  const origins = values(headers, "Origin");
  const sites = values(headers, "Sec-Fetch-Site");
  // A page under `Referrer-Policy: no-referrer` has the origin `null`. No script can forge the other header.
  if (origins.length > 0 && !(origins.length === 1 && origins[0] === "null")) {
    return origins.every((origin) => OWN_ORIGINS.includes(origin));
  }
  return sites.length === 1 && sites[0] === "same-origin";
}

/**
 * The headers to call the function with. It decides by them as `isFromOwnPage` does.
 *
 * @param {Headers} headers
 */
export function headersForFunction(headers) {
  const cookie = values(headers, "Cookie").join("; ");
  // The function refuses `a,b`. A request with neither header would pass as one that no browser sent.
  const site = values(headers, "Sec-Fetch-Site").join(",");
  const origin = values(headers, "Origin").join(",") || (site ? "" : "null");
  const forwarded = { Cookie: cookie, Origin: origin, "Sec-Fetch-Site": site };
  return Object.fromEntries(Object.entries(forwarded).filter(([, value]) => value));
}

/**
 * All values of a header, whatever the case of its name is.
 *
 * @param {Headers} headers
 * @param {string} name
 */
function values(headers, name) {
  const pairs = Symbol.iterator in headers ? [...headers] : Object.entries(headers);
  return pairs
    .filter(([key]) => String(key).toLowerCase() === name.toLowerCase())
    .flatMap(([, value]) => (Array.isArray(value) ? value.map(String) : [String(value)]));
}
