// The function as one would write it for Node.js: one UpdateItemCommand a session, all in one Promise.all.
// The loop at the end is what the Lambda runtime for Node.js would do.

import { createHash } from 'node:crypto';
import http from 'node:http';
import { createRequire } from 'node:module';

// Unlike import, it finds the SDK by NODE_PATH.
const require = createRequire(import.meta.url);
const { DynamoDBClient, GetItemCommand, UpdateItemCommand, paginateQuery } = require('@aws-sdk/client-dynamodb');

const client = new DynamoDBClient({});
const TableName = process.env.SESSIONS_TABLE;

async function handler(event, requestId) {
  const tokenHash = createHash('sha256').update(event.headers['x-session-token']).digest('hex');
  const now = Math.floor(Date.now() / 1000);
  const Key = { token_hash: { S: tokenHash } };
  const { Item: caller } = await client.send(new GetItemCommand({ TableName, Key, ConsistentRead: true }));
  if (caller?.status?.S !== 'active' || !(Number(caller.expires_at?.N) > now)) return { statusCode: 401, body: '{}' };

  const others = [];
  const pages = paginateQuery({ client }, {
    TableName,
    IndexName: 'user_id-index',
    KeyConditionExpression: 'user_id = :user',
    FilterExpression: '#status <> :revoked',
    ExpressionAttributeNames: { '#status': 'status' },
    ExpressionAttributeValues: { ':user': caller.user_id, ':revoked': { S: 'revoked' } },
  });
  for await (const page of pages) {
    others.push(...page.Items.map((item) => item.token_hash).filter((other) => other.S !== tokenHash));
  }

  const changed = await Promise.all(others.map(async (other) => {
    try {
      await client.send(new UpdateItemCommand({
        TableName,
        Key: { token_hash: other },
        UpdateExpression: 'SET #status = :revoked, revoked_at = :at, revoked_by = :by, revocation_id = :id',
        ConditionExpression: 'user_id = :user AND #status <> :revoked',
        ExpressionAttributeNames: { '#status': 'status' },
        ExpressionAttributeValues: {
          ':revoked': { S: 'revoked' },
          ':at': { N: String(now) },
          ':by': caller.session_id,
          ':id': { S: requestId },
          ':user': caller.user_id,
        },
      }));
      return 1;
    } catch (error) {
      if (error.name === 'ConditionalCheckFailedException') return 0;
      throw error;
    }
  }));
  const count = changed.reduce((sum, one) => sum + one, 0);
  return { statusCode: 200, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ count }) };
}

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(':');
const agent = new http.Agent({ keepAlive: true });

function call(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, method, path: `/2018-06-01/runtime/invocation/${path}`, agent });
    request.on('error', reject);
    request.on('response', (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => resolve({ headers: response.headers, body: Buffer.concat(chunks).toString() }));
    });
    request.end(body);
  });
}

for (;;) {
  const next = await call('GET', 'next');
  const requestId = next.headers['lambda-runtime-aws-request-id'];
  const answer = await handler(JSON.parse(next.body), requestId);
  await call('POST', `${requestId}/response`, JSON.stringify(answer));
}
