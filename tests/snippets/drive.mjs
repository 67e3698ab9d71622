// Runs functions of docs/code/node: reads lines of `[function, argument, ...]`, and prints a line for each. The lines are
// JSON. The answer is `{"result": ...}`, or `{"error": ...}` if the function has thrown.
import { createInterface } from "node:readline";
import * as sessions from "./sessions.mjs";

const { check, endAll, extend, pin, readUser, rotate, signIn, signOut, stepUp } = sessions;
const functions = {
  check,
  pin,
  rotate,
  sign_out: signOut,
  step_up: stepUp,
  sign_in: async (userId) => signIn(await readUser(userId)),
  extend: async (token) => {
    const session = await check(token);
    return session && extend(session);
  },
  end_all: (userId, changes = {}) =>
    endAll(userId, Object.fromEntries(Object.entries(changes).map(([name, value]) => [name, { S: value }]))),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...argumentsOf] = JSON.parse(line);
  let answer;
  try {
    const result = await functions[name](...argumentsOf);
    answer = { result: result?.user_id?.S ?? result ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  console.log(JSON.stringify(answer));
}
