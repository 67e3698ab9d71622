// Tries docs/code/node/browser.mjs on the headers of a browser's request, in every form that servers have them. Reads the
// headers as JSON from the command line, and prints for each form what is forwarded and whether the request is accepted.
import { headersForFunction, isFromOwnPage } from "./browser.mjs";

const seen = JSON.parse(process.argv[2]);
const renamed = (change) => Object.fromEntries(Object.entries(seen).map(([name, value]) => [change(name), value]));
const understood = {
  "an object": seen,
  "an object in lower case": renamed((name) => name.toLowerCase()),
  "an event's multiValueHeaders": Object.fromEntries(Object.entries(seen).map(([name, value]) => [name, [value]])),
  "Headers of the Fetch API": new Headers(seen),
  "a Map": new Map(Object.entries(seen)),
};
const notUnderstood = {
  "Node's rawHeaders": Object.entries(seen).flat(),
  "names with underscores": renamed((name) => name.toLowerCase().replaceAll("-", "_")),
  nothing: {},
};
const mapped = (forms, change) => Object.fromEntries(Object.entries(forms).map(([name, form]) => [name, change(form)]));
console.log(
  JSON.stringify({
    understood: mapped(understood, (form) => [headersForFunction(form), isFromOwnPage(form)]),
    "not understood": mapped(notUnderstood, isFromOwnPage),
  }),
);
