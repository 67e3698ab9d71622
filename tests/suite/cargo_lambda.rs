//! The function over HTTP, with the sessions of `make run`, and in its environment.

use std::ffi::OsString;

use hyper::Method;
use serde_json::{Value, json};

use crate::support::runtime::Function;
use crate::support::watch::Watch;
use crate::support::{World, assert_only_revocations, delete, demo, revoked};

/// What `make run` uses.
#[path = "../local/environment.rs"]
pub mod environment;

#[tokio::test]
async fn the_function_works_over_http_under_cargo_lambda() {
    let world = World::new().await;
    world.database.put(&demo::sessions()).await;
    let before = world.database.rows().await;
    let watch = Watch::start(&world).await;

    let answer = watch.call(Method::DELETE, &[("X-Session-Token", demo::ALICE)]).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"count": 3})), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));

    let cookie = format!("theme=dark; ory_kratos_session={}", demo::BOB);
    watch.call(Method::DELETE, &[("Cookie", &cookie)]).await.assert_count(1);

    let bearer = format!("Bearer {}", demo::CAROL);
    watch.call(Method::DELETE, &[("Authorization", &bearer)]).await.assert_error(401, "session_inactive", None);

    let origin = "https://app.example.com";
    let preflight =
        watch.call(Method::OPTIONS, &[("Origin", origin), ("Access-Control-Request-Method", "DELETE")]).await;
    assert_eq!((preflight.status, &preflight.body), (204, &Value::Null), "{preflight:?}");
    assert_eq!(preflight.header("access-control-allow-origin"), Some(origin));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("DELETE"));

    let evil = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "DELETE")];
    let preflight = watch.call(Method::OPTIONS, &evil).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, None), "{preflight:?}");

    let after = world.database.rows().await;
    assert_only_revocations(&before, &after);
    assert_eq!(revoked(&after), revoked(&before) + 4);
    for caller in ["alice-laptop", "bob-browser"] {
        assert_eq!(after[caller], before[caller]);
    }
}

#[tokio::test]
async fn make_run_is_not_led_away_by_the_terminals_environment() {
    let (world, caller) = World::with_others(3).await;
    let home = format!("{}/home-of-a-company", env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(format!("{home}/.aws")).expect("a folder");
    let config = format!("{home}/.aws/config");
    let profile = "use_fips_endpoint = true\nuse_dualstack_endpoint = true\nregion = us-gov-west-1\n";
    std::fs::write(&config, format!("[default]\n{profile}[profile company]\n{profile}")).expect("a file");
    let nobody = "http://127.0.0.1:9";
    let terminal = [
        ("PATH", "/bin"),
        ("HOME", &home),
        ("AWS_LAMBDA_LOG_LEVEL", "ERROR"),
        ("AWS_CONFIG_FILE", &config),
        ("AWS_SHARED_CREDENTIALS_FILE", &config),
        ("AWS_PROFILE", "company"),
        ("AWS_REGION", "us-gov-west-1"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"),
        ("AWS_ENDPOINT_URL", nobody),
        ("AWS_SESSION_TOKEN", "expired"),
        ("USER_ID_INDEX", "by-user"),
        ("SESSIONS_TABLE", "production"),
        ("HTTP_PROXY", nobody),
        ("HTTPS_PROXY", nobody),
        ("http_proxy", nobody),
        ("ALL_PROXY", nobody),
        ("CARGO_PKG_NAME", "local"),
    ];
    let inherited = terminal.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let endpoint = format!("http://{}", world.proxy.address);
    let variables = environment::of_function(inherited, &endpoint, &world.database.table, "http://localhost:3000");
    let text = |value: &OsString| value.to_str().expect("UTF-8").to_owned();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (text(name), text(value))).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(variables.contains(&("PATH", "/bin")) && variables.contains(&("AWS_LAMBDA_LOG_LEVEL", "ERROR")));
    assert!(!variables.iter().any(|(name, _)| environment::is_set_by_cargo(name)), "{variables:?}");
    let mut function = Function::start(&world, &variables).await;
    function.send(delete().token(&caller.token)).await.assert_count(3);
}

#[test]
fn cargo_lambda_is_shown_with_the_functions_own_cors() {
    let printed = include_str!("../local/main.rs").lines();
    let commands: Vec<_> = printed.filter(|line| line.trim_start().starts_with("cargo lambda watch --")).collect();
    let [command] = commands[..] else { panic!("{commands:?}") };
    assert!(command.contains(" --disable-cors "), "{command}");
}
