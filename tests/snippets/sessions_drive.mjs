// Runs the JavaScript of docs/sessions-table.md: a function of it by name, with an argument.
import * as sessions from "./sessions.mjs";

const [, , name, argument] = process.argv;
const functions = { sign_in: sessions.signIn, check: sessions.check, sign_out: sessions.signOut };
const result = await functions[name](argument);
console.log(result?.user_id ?? result ?? "");
