/**
 * Sessions in DynamoDB that `disable-my-other-sessions` understands.
 *
 * Copy this file, and change what is your application's: names of tables, lifetimes, attributes. The rules that it keeps, each
 * with its reason, are in docs/sessions-table.md. Two tables: one item a session, and one item a user (`user_id`), which only
 * needs `credentials_version` for this file. Items are as DynamoDB has them, `{ S: "text" }` and `{ N: "1" }`, so that a copy
 * is exact: JavaScript rounds long numbers.
 *
 * @typedef {Record<string, import("@aws-sdk/client-dynamodb").AttributeValue>} Item
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  ConditionalCheckFailedException,
  DynamoDBClient,
  DynamoDBServiceException,
  GetItemCommand,
  paginateQuery,
  TransactionCanceledException,
  TransactWriteItemsCommand,
  UpdateItemCommand,
} from "@aws-sdk/client-dynamodb";

const TABLE = process.env.SESSIONS_TABLE ?? "sessions";
const USERS = process.env.USERS_TABLE ?? "users";
// Without time-outs, a request of a user would wait for as long as a dead connection does.
const client = new DynamoDBClient({
  maxAttempts: 3,
  requestHandler: { connectionTimeout: 1000, requestTimeout: 3000, throwOnRequestTimeout: true },
});

const DAY = 24 * 3600;
const LIFETIME = 30 * DAY; // of a session that is not extended
const LONGEST = 365 * DAY; // from the sign-in, however often the session is extended
const KEPT = 90 * DAY; // how long an expired session is kept for an investigation
const REST = 60; // seconds between two rotations of a session: longer than a call of the function takes
const INDEX_LAG = 1000; // milliseconds after which a look at the index is trusted to show a session
const ATTEMPTS = 5;

// Attributes that sessions get only after the sign-in. A session is copied on condition that none of them has appeared since
// it was read, so add your own.
const ADDED_LATER = ["rotated_at", "pin"];
// DynamoDB has not carried out a transaction, and carries it out if it is sent again.
const RETRYABLE = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];

const END = "SET #status = :revoked, revoked_at = :now, revoked_by = if_not_exists(session_id, :unknown)";

/** Others wrote to the session or to its user at each attempt. Nothing was changed. */
export class Busy extends Error {}

/** @param {string} token @returns {Item} */
export const key = (token) => ({ token_hash: text(createHash("sha256").update(token).digest("hex")) });

/** @param {string} userId */
export const readUser = (userId) => get(USERS, { user_id: text(userId) });

/**
 * Whether a session is active, for a user as it is now. Decides without reading anything.
 *
 * @param {Item} session
 * @param {Item | undefined} user
 */
export function isValid(session, user) {
  return (
    session.status?.S === "active" &&
    session.session_id !== undefined &&
    // Without a number there is nothing to compare with: a time in a string is refused, as the function refuses it.
    Number(session.expires_at?.N) > Date.now() / 1000 &&
    user !== undefined &&
    // Both lack it until the user's sessions are ended for the first time.
    session.credentials_version?.N === user.credentials_version?.N
  );
}

/**
 * The active session of a token, or undefined.
 *
 * @param {string} token
 */
export async function check(token) {
  const session = await get(TABLE, key(token));
  if (session?.status?.S !== "active" || session.user_id?.S === undefined) return undefined;
  return isValid(session, await readUser(session.user_id.S)) ? session : undefined;
}

/**
 * The token of a new session: give it to the device, and store it nowhere. Undefined if the sessions of the user were ended
 * since `user` was read, as by a new password: check the password again.
 *
 * @param {Item} user the user's item as `readUser` returned it *before* the password was checked
 */
export async function signIn(user) {
  const token = newToken();
  const session = {
    ...key(token),
    session_id: text(randomUUID()),
    user_id: user.user_id,
    status: text("active"),
    created_at: number(now()),
    authenticated_at: number(now()),
    ...endingAt(now() + LIFETIME),
    ...versionOf(user),
  };
  try {
    return (await create(session)) ? token : undefined;
  } catch (error) {
    // The answer may have been lost, and the session written.
    if (await isStored(session)) return token;
    throw error;
  }
}

/**
 * Moves the end of a session that `check` has returned, once a day at most, since each write costs.
 *
 * @param {Item} session
 */
export async function extend(session) {
  const expiresAt = Math.min(now() + LIFETIME, Number(session.created_at?.N ?? 0) + LONGEST);
  if (expiresAt < Number(session.expires_at.N) + DAY) return;
  const { expires_at, delete_at } = endingAt(expiresAt);
  await update(
    { token_hash: session.token_hash },
    "SET expires_at = :expires_at, delete_at = :delete_at",
    "#status = :active AND expires_at = :seen",
    { ":active": text("active"), ":seen": session.expires_at, ":expires_at": expires_at, ":delete_at": delete_at },
  );
}

/**
 * The token to use from now on: a new one, or the same one within REST seconds. Undefined: the session has ended.
 *
 * If this throws, let the device keep the old token. It is valid, unless DynamoDB answered nothing at all for a while.
 *
 * @param {string} token
 */
export async function rotate(token) {
  try {
    return await replace(token, {}, REST);
  } catch (error) {
    if (error instanceof Busy) return token;
    throw error;
  }
}

/**
 * A new token with a new `authenticated_at`, after the user has repeated the password or the second factor.
 *
 * Undefined: the session has ended. If this throws, the session is not upgraded.
 *
 * @param {string} token
 */
export const stepUp = (token) => replace(token, { authenticated_at: number(now()) }, 0);

/**
 * Keeps a token from being rotated for REST seconds. Returns whether its session is active.
 *
 * Call this before the function is called with the token: a rotation meanwhile would create a session that the function
 * revokes, which is the caller's own.
 *
 * @param {string} token
 */
export const pin = (token) =>
  // The random value makes each transaction fail that has read the session before, however late it arrives.
  update(key(token), "SET rotated_at = :now, pin = :pin", "#status = :active", {
    ":active": text("active"),
    ":now": number(now()),
    ":pin": text(randomUUID()),
  });

/** @param {string} token */
export const signOut = (token) => end(key(token));

/**
 * Ends all sessions of a user, also against sign-ins and rotations in progress. May be called again. Afterwards sign the user
 * in again on this device: `signIn(await readUser(userId))`.
 *
 * @param {string} userId
 * @param {Item} changes of the user, which are written at once with it, such as a new `password_hash`
 */
export async function endAll(userId, changes = {}) {
  const names = Object.keys(changes);
  const settings = names.map((_, index) => `#${index} = :${index}`).join(", ");
  const { Attributes } = await client.send(
    new UpdateItemCommand({
      TableName: USERS,
      Key: { user_id: text(userId) },
      UpdateExpression: `ADD credentials_version :one ${settings && `SET ${settings}`}`,
      ConditionExpression: "attribute_exists(user_id)",
      ExpressionAttributeNames: names.length ? numbered("#", names) : undefined,
      ExpressionAttributeValues: { ":one": number(1), ...numbered(":", Object.values(changes)) },
      ReturnValues: "UPDATED_NEW",
    }),
  );
  // From here on `check` refuses every session with an older version. What follows shows the function and the user that they
  // have ended.
  await markEnded(userId, /** @type {Item} */ (Attributes).credentials_version);
}

/**
 * Revokes the sessions of a user that are older than a version, until the index has shown them all.
 *
 * @param {string} userId
 * @param {import("@aws-sdk/client-dynamodb").AttributeValue} version
 */
async function markEnded(userId, version) {
  const began = performance.now();
  const seen = new Set();
  let failure;
  for (;;) {
    const looked = performance.now();
    const unseen = (await look(userId)).filter((session) => !seen.has(session.token_hash.S));
    for (const { token_hash } of unseen) {
      seen.add(token_hash.S);
      try {
        await end({ token_hash }, version);
      } catch (error) {
        if (!(error instanceof DynamoDBServiceException)) throw error;
        failure = error; // One session that cannot be written keeps no other signed in.
      }
    }
    if (unseen.length === 0 && looked - began >= INDEX_LAG) break;
    await sleep(INDEX_LAG / 4);
  }
  if (failure) throw failure;
}

/**
 * The keys of a user's sessions that the index shows.
 *
 * @param {string} userId
 */
async function look(userId) {
  const sessions = [];
  const query = {
    TableName: TABLE,
    IndexName: "user_id-index",
    KeyConditionExpression: "user_id = :user",
    ExpressionAttributeValues: { ":user": text(userId) },
    ProjectionExpression: "token_hash",
  };
  for await (const page of paginateQuery({ client }, query)) sessions.push(...(page.Items ?? []));
  return sessions;
}

/**
 * Ends a session, whatever its status and its other attributes are. Who ended it before, and when, is kept.
 *
 * @param {Item} sessionKey
 * @param {import("@aws-sdk/client-dynamodb").AttributeValue} [olderThan]
 */
async function end(sessionKey, olderThan) {
  const ifNotEnded = "attribute_exists(token_hash) AND (attribute_not_exists(#status) OR #status <> :revoked)";
  const ifOlder = "(attribute_not_exists(credentials_version) OR credentials_version < :version)";
  await update(sessionKey, END, olderThan ? `${ifNotEnded} AND ${ifOlder}` : ifNotEnded, {
    ...endValues(),
    ...(olderThan && { ":version": olderThan }),
  });
}

/**
 * Whether a session was updated. False: the condition does not hold.
 *
 * @param {Item} sessionKey
 * @param {string} expression
 * @param {string} condition
 * @param {Item} values
 */
async function update(sessionKey, expression, condition, values) {
  try {
    await client.send(
      new UpdateItemCommand({
        TableName: TABLE,
        Key: sessionKey,
        UpdateExpression: expression,
        ConditionExpression: condition,
        ExpressionAttributeNames: { "#status": "status" },
        ExpressionAttributeValues: values,
      }),
    );
    return true;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return false;
    throw error;
  }
}

/**
 * Ends a session and creates one with a new token and these changes in its place, both or neither.
 *
 * @param {string} token
 * @param {Item} changes
 * @param {number} rest
 */
async function replace(token, changes, rest) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const session = await check(token);
    if (!session) return undefined;
    if (rest && Number(session.rotated_at?.N ?? 0) > now() - rest) return token;
    const fresh = newToken();
    const unique = { ...key(fresh), session_id: text(randomUUID()), rotated_at: number(now()) };
    const successor = { ...session, ...changes, ...unique };
    try {
      if (await create(successor, { Update: ending(session) })) return fresh;
    } catch (error) {
      // The answer may have been lost, or the transaction may be carried out later. After a pin it cannot be.
      if (await pin(token)) throw error;
      return (await isStored(successor)) ? fresh : undefined;
    }
  }
  throw new Busy();
}

/**
 * Creates a session together with other parts of a transaction. False: a condition of one of them does not hold.
 *
 * No session is created after the sessions of its user were ended: the user must still have the version of the session.
 *
 * @param {Item} session
 * @param {import("@aws-sdk/client-dynamodb").TransactWriteItem[]} others
 */
function create(session, ...others) {
  const put = { TableName: TABLE, Item: session, ConditionExpression: "attribute_not_exists(token_hash)" };
  const user = { user_id: session.user_id, ...versionOf(session) };
  const ConditionCheck = {
    TableName: USERS,
    Key: { user_id: session.user_id },
    ...unchanged(user, ["credentials_version"]),
  };
  return transact([{ Put: put }, { ConditionCheck }, ...others], session);
}

/**
 * The part of a transaction that ends a session, on condition that it is as it was read.
 *
 * @param {Item} session
 */
function ending(session) {
  const condition = unchanged(session, ADDED_LATER);
  return {
    TableName: TABLE,
    Key: { token_hash: session.token_hash },
    UpdateExpression: END,
    ConditionExpression: condition.ConditionExpression,
    ExpressionAttributeNames: { ...condition.ExpressionAttributeNames, "#status": "status" },
    ExpressionAttributeValues: { ...condition.ExpressionAttributeValues, ...endValues() },
  };
}

/**
 * The condition that an item has each attribute as it was read, and none of `addedLater` that it had not.
 *
 * @param {Item} item
 * @param {string[]} addedLater
 */
function unchanged(item, addedLater) {
  const present = Object.keys(item);
  const names = [...present, ...addedLater.filter((name) => !(name in item))];
  const conditions = names.map((_, index) =>
    index < present.length ? `#${index} = :${index}` : `attribute_not_exists(#${index})`,
  );
  return {
    ConditionExpression: conditions.join(" AND "),
    ExpressionAttributeNames: numbered("#", names),
    ExpressionAttributeValues: numbered(":", Object.values(item)),
  };
}

/**
 * Carries out a transaction that creates a session. False: a condition does not hold.
 *
 * @param {import("@aws-sdk/client-dynamodb").TransactWriteItem[]} TransactItems
 * @param {Item} session
 */
async function transact(TransactItems, session) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (attempt) await sleep(Math.random() * 50 * 2 ** attempt);
    try {
      await client.send(new TransactWriteItemsCommand({ TransactItems }));
      return true;
    } catch (error) {
      if (!(error instanceof TransactionCanceledException)) throw error;
      const codes = (error.CancellationReasons ?? [])
        .map((reason) => reason.Code ?? "")
        .filter((code) => code !== "None");
      // If an attempt before it was carried out without an answer, the condition failed by our own doing.
      if (codes.includes("ConditionalCheckFailed")) return isStored(session);
      if (codes.length === 0 || !codes.every((code) => RETRYABLE.includes(code))) throw error;
    }
  }
  throw new Busy();
}

/** @param {Item} session */
async function isStored(session) {
  const stored = await get(TABLE, { token_hash: session.token_hash });
  return stored?.session_id?.S === session.session_id.S;
}

/**
 * An item as of now. A read that is not consistent can show a revoked session as active.
 *
 * @param {string} TableName
 * @param {Item} Key
 * @returns {Promise<Item | undefined>}
 */
async function get(TableName, Key) {
  return (await client.send(new GetItemCommand({ TableName, Key, ConsistentRead: true }))).Item;
}

/**
 * TTL deletes by `delete_at`, so whoever sets `expires_at` moves it too.
 *
 * @param {number} expiresAt
 */
const endingAt = (expiresAt) => ({ expires_at: number(expiresAt), delete_at: number(expiresAt + KEPT) });

/** @param {Item} item @returns {Item} */
const versionOf = ({ credentials_version }) => (credentials_version ? { credentials_version } : {});

const endValues = () => ({ ":revoked": text("revoked"), ":now": number(now()), ":unknown": text("unknown") });

const newToken = () => randomBytes(32).toString("base64url");

const now = () => Math.floor(Date.now() / 1000);

/** @param {string} value */
const text = (value) => ({ S: value });

/** @param {number} value */
const number = (value) => ({ N: String(value) });

/**
 * @template Value
 * @param {string} sign
 * @param {Value[]} values
 * @returns {Record<string, Value>}
 */
const numbered = (sign, values) => Object.fromEntries(values.map((value, index) => [`${sign}${index}`, value]));
