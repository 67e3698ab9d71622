// A browser's cookies: prints the `Cookie` header for the application, after hosts have set these cookies in this order.
// The argument is JSON: pairs of a host and the value of a `Set-Cookie` header.
import { CookieJar } from "tough-cookie";

const jar = new CookieJar(undefined, { prefixSecurity: "strict" });
for (const [host, cookie] of JSON.parse(process.argv[2])) {
  // A browser ignores a cookie that it does not accept.
  await jar.setCookie(cookie, `https://${host}/`).catch(() => {});
}
console.log(await jar.getCookieString("https://app.example.com/auth/sessions"));
