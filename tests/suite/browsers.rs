//! Web pages: CORS, and the CSRF rule for cookies.

use crate::support::events::Request;
use crate::support::{Gateway, World, delete};

const ALLOWED: &str = "https://app.example.com";

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
async fn a_cookie_from_another_site_is_refused_and_revokes_nothing() {
    let (world, caller) = World::with_others(1).await;
    for gateway in Gateway::ALL {
        for (name, value) in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
            let answer = world.send(delete().through(gateway).cookie(&caller.token).header(name, value)).await;
            answer.assert_error(403, "security_csrf_violation", None);
        }
        let forged = delete().through(gateway).cookie(&caller.token).header("Origin", "null").header("Origin", ALLOWED);
        // A load balancer passes on the last of the two values only.
        if gateway != Gateway::Alb {
            world.send(forged).await.assert_error(403, "security_csrf_violation", None);
        }
    }
    assert!(world.proxy.seen().is_empty());
}

#[tokio::test]
async fn a_cookie_from_an_allowed_origin_or_the_own_host_is_accepted() {
    for gateway in Gateway::ALL {
        for (origin, site) in [(ALLOWED, "cross-site"), ("https://apis.example.com", "same-origin")] {
            let (world, caller) = World::with_others(1).await;
            let request = delete().through(gateway).cookie(&caller.token);
            let request = request.header("Origin", origin).header("Sec-Fetch-Site", site);
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
