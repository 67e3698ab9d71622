//! Web pages: CORS, and the CSRF rule for cookies.

use crate::support::events::Request;
use crate::support::{Gateway, World, delete};

const ALLOWED: &str = "https://app.example.com";

#[tokio::test]
async fn a_preflight_of_an_allowed_origin_is_granted() {
    let world = World::new().await;
    for gateway in Gateway::ALL {
        let preflight = || {
            let request = delete().through(gateway).method("OPTIONS").header("Origin", ALLOWED);
            request.header("Access-Control-Request-Method", "DELETE")
        };
        let asked = "baggage,sentry-trace,x-requested-with,x-session-token";
        let granted = "baggage, sentry-trace, x-requested-with, x-session-token";
        for (request, granted) in [
            (preflight(), "X-Session-Token, Authorization, Content-Type"),
            (preflight().header("Access-Control-Request-Headers", asked), granted),
        ] {
            let answer = world.send(request).await;
            assert_eq!(answer.status, 204);
            assert_eq!(answer.header("access-control-allow-origin"), Some(ALLOWED));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert_eq!(answer.header("access-control-allow-methods"), Some("DELETE"));
            assert_eq!(answer.header("access-control-allow-headers"), Some(granted));
            assert_eq!(answer.header("vary"), Some("Origin, Access-Control-Request-Headers"));
            assert_eq!(answer.header("allow"), Some("DELETE, OPTIONS"));
        }
    }
    assert!(world.proxy.seen().is_empty());
}

#[tokio::test]
async fn every_answer_to_an_allowed_origin_can_be_read_by_its_page() {
    let (world, caller) = World::with_others(1).await;
    for request in [
        delete().token(&caller.token),
        delete(),
        delete().token("not a token"),
        delete().path("/"),
        delete().method("GET"),
    ] {
        let answer = world.send(request.header("Origin", ALLOWED)).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(ALLOWED), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{answer:?}");
        assert_eq!(answer.header("vary"), Some("Origin"), "{answer:?}");
    }
}

#[tokio::test]
async fn no_other_origin_is_granted_anything() {
    let (world, caller) = World::with_others(1).await;
    for origin in
        ["https://evil.example", "null", "*", "http://app.example.com", "https://app.example.com.evil.example"]
    {
        let preflight = delete().method("OPTIONS").header("Access-Control-Request-Headers", "x-session-token");
        for (request, vary) in [
            (preflight, "Origin, Access-Control-Request-Headers"),
            (delete().token(&caller.token), "Origin"),
            (delete(), "Origin"),
        ] {
            let answer = world.send(request.header("Origin", origin)).await;
            assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "{origin}: {answer:?}");
            assert_eq!(answer.header("vary"), Some(vary));
        }
    }
}

#[tokio::test]
async fn a_cookie_from_another_site_is_refused_and_revokes_nothing() {
    let (world, caller) = World::with_others(1).await;
    for gateway in Gateway::ALL {
        for (name, value) in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Origin", "null,https://app.example.com"),
            ("Origin", "https://apis.example.com.evil.example"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            let answer = world.send(delete().through(gateway).cookie(&caller.token).header(name, value)).await;
            answer.assert_error(403, "security_csrf_violation", None);
        }
    }
    assert!(world.proxy.seen().is_empty());
}

#[tokio::test]
async fn a_cookie_from_an_allowed_origin_or_the_own_host_is_accepted() {
    for gateway in Gateway::ALL {
        for headers in [
            &[("Origin", ALLOWED), ("Sec-Fetch-Site", "cross-site")][..],
            &[("Origin", "https://apis.example.com"), ("Sec-Fetch-Site", "same-origin")],
            &[("Origin", "null"), ("Sec-Fetch-Site", "same-origin")],
            &[("Sec-Fetch-Site", "same-origin")],
            &[("Sec-Fetch-Site", "none")],
            &[],
        ] {
            let (world, caller) = World::with_others(1).await;
            let mut request = delete().through(gateway).cookie(&caller.token);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            world.send(request).await.assert_count(1);
        }
    }
}

#[tokio::test]
async fn the_origin_is_checked_only_for_the_cookie() {
    for send in [Request::token, Request::bearer] {
        let (world, caller) = World::with_others(1).await;
        let request = delete().header("Origin", "https://evil.example").header("Sec-Fetch-Site", "cross-site");
        world.send(send(request, &caller.token)).await.assert_count(1);
    }
}

#[tokio::test]
async fn the_own_host_is_known_without_a_host_header() {
    let (world, caller) = World::with_others(1).await;
    for (domain, status) in [("other.example.com", 403), ("apis.example.com", 200)] {
        let request = delete().cookie(&caller.token).header("Origin", "https://apis.example.com");
        let mut event = request.into_event();
        event["headers"].as_object_mut().expect("headers").remove("Host");
        event["multiValueHeaders"].as_object_mut().expect("headers").remove("Host");
        event["requestContext"]["domainName"] = domain.into();
        assert_eq!(world.invoke(&event).await["statusCode"], status);
    }
}
