// Runs the JavaScript of docs/sessions-table.md: a function of it by name, with an argument.
import * as sessions from "./sessions.mjs";

const [, , name, argument] = process.argv;
const { signIn, check, signOut, rotate } = sessions;
const functions = { sign_in: signIn, check, sign_out: signOut, rotate };
const result = await functions[name](argument);
console.log(result?.user_id ?? result ?? "");
