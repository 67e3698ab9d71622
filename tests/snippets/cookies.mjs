// A browser's cookies: prints the `Cookie` header for the application, after it and a page on a sibling host have set some.
import { CookieJar } from "tough-cookie";

const [, , own, ...ofSiblings] = process.argv;
const jar = new CookieJar(undefined, { prefixSecurity: "strict" });
await jar.setCookie(own, "https://app.example.com/");
for (const cookie of ofSiblings) {
  // A browser ignores a cookie that it does not accept.
  await jar.setCookie(cookie, "https://blog.example.com/").catch(() => {});
}
console.log(await jar.getCookieString("https://app.example.com/auth/sessions"));
