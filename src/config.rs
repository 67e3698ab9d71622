//! The configuration, read from the environment. Besides this module, only the SDK and the Lambda runtime read variables
//! (`AWS_*`). An invalid value stops the start: otherwise the function would fail later, at the call of a user.

use std::env;
use std::time::Duration;

use url::Url;

use crate::http::origin::{AllowedOrigins, NotAnOrigin};

/// Name of the session cookie unless `SESSION_COOKIE_NAME` says otherwise.
pub const DEFAULT_COOKIE_NAME: &str = "ory_kratos_session";

/// The configuration of the function, besides its logging.
#[derive(Clone, Debug)]
pub struct Config {
    /// The table of the sessions.
    pub table: Table,
    /// Name of the session cookie (`SESSION_COOKIE_NAME`).
    pub cookie_name: String,
    /// Web origins that may call (`ALLOWED_ORIGINS`).
    pub allowed_origins: AllowedOrigins,
    /// How long ago the caller may have signed in, in whole seconds; no limit if `None` (`MAX_AUTHENTICATION_AGE`).
    pub max_authentication_age: Option<Duration>,
    /// Whether errors carry `debug`, which reveals internals to callers (`ERROR_DEBUG`).
    pub error_debug: bool,
}

/// The table and its index. Both names are safe inside the quotes of a statement.
#[derive(Clone, Debug)]
pub struct Table {
    /// Table name (`SESSIONS_TABLE`).
    pub name: String,
    /// Name of the index on `user_id` (`USER_ID_INDEX`).
    pub index: String,
}

/// How to log. This part of the configuration is read first, so that an invalid [`Config`] can be logged.
#[derive(Clone, Debug)]
pub struct Logging {
    /// One JSON object a line (`AWS_LAMBDA_LOG_FORMAT=JSON`) instead of text.
    pub json: bool,
    /// The value of `AWS_LAMBDA_LOG_FORMAT` if it is neither `JSON` nor `Text`.
    pub unknown_format: Option<String>,
    /// Level where there are no directives (`AWS_LAMBDA_LOG_LEVEL`, `INFO` by default).
    pub level: String,
    /// Filter directives (`RUST_LOG`).
    pub directives: Option<String>,
}

/// A variable is missing or invalid. The text names it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that has no default.
    #[error("{0} is not set: it must name the DynamoDB table of the sessions")]
    Missing(&'static str),
    /// A variable with an invalid value.
    #[error("{variable} is {value:?}, which is not {expected}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// The value of the variable.
        value: String,
        /// The values that are valid, in words.
        expected: &'static str,
    },
    /// An entry of `ALLOWED_ORIGINS` is not an origin.
    #[error("ALLOWED_ORIGINS: {0}")]
    AllowedOrigins(#[from] NotAnOrigin),
}

impl Config {
    /// Reads the process's environment. An empty variable counts as absent.
    ///
    /// # Errors
    /// [`ConfigError`] for a missing table name and for any invalid value.
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::read(environment)
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let table = variable("SESSIONS_TABLE").ok_or(ConfigError::Missing("SESSIONS_TABLE"))?;
        let index = variable("USER_ID_INDEX").unwrap_or_else(|| "user_id-index".to_owned());
        let cookie_name = variable("SESSION_COOKIE_NAME").unwrap_or_else(|| DEFAULT_COOKIE_NAME.to_owned());
        let error_debug = variable("ERROR_DEBUG").unwrap_or_else(|| "false".to_owned());
        // The SDK reads these variables itself. An invalid value would make the first call fail.
        for name in ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"] {
            if let Some(endpoint) = variable(name) {
                valid(name, endpoint, is_http_url, "a URL such as http://localhost:8000")?;
            }
        }
        Ok(Self {
            table: Table {
                name: valid("SESSIONS_TABLE", table, is_dynamodb_name, "a DynamoDB table name")?,
                index: valid("USER_ID_INDEX", index, is_dynamodb_name, "a DynamoDB index name")?,
            },
            cookie_name: valid("SESSION_COOKIE_NAME", cookie_name, is_cookie_name, "a cookie name")?,
            allowed_origins: AllowedOrigins::parse(&variable("ALLOWED_ORIGINS").unwrap_or_default())?,
            max_authentication_age: variable("MAX_AUTHENTICATION_AGE").map(max_authentication_age).transpose()?,
            error_debug: valid("ERROR_DEBUG", error_debug, is_bool, "true or false")? == "true",
        })
    }
}

impl Logging {
    /// Reads the process's environment, with the variables and rules of the Lambda runtime's own log subscriber.
    #[must_use]
    pub fn from_environment() -> Self {
        let format = environment("AWS_LAMBDA_LOG_FORMAT").unwrap_or_else(|| "Text".to_owned());
        let json = format.eq_ignore_ascii_case("json");
        let is_known = json || format.eq_ignore_ascii_case("text");
        Self {
            json,
            unknown_format: (!is_known).then_some(format),
            level: environment("AWS_LAMBDA_LOG_LEVEL").unwrap_or_else(|| "INFO".to_owned()),
            directives: environment("RUST_LOG"),
        }
    }
}

/// The value of a variable, `None` if it is empty. A value that is not Unicode gets replacement characters, which no variable
/// accepts.
fn environment(variable: &str) -> Option<String> {
    env::var_os(variable).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

fn valid(
    variable: &'static str,
    value: String,
    is_valid: fn(&str) -> bool,
    expected: &'static str,
) -> Result<String, ConfigError> {
    if is_valid(&value) { Ok(value) } else { Err(ConfigError::Invalid { variable, value, expected }) }
}

fn max_authentication_age(value: String) -> Result<Duration, ConfigError> {
    let is_number = value.len() <= 9 && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(seconds @ 1..) if is_number => Ok(Duration::from_secs(seconds)),
        _ => {
            let (variable, expected) = ("MAX_AUTHENTICATION_AGE", "a number of seconds from 1 to 999999999");
            Err(ConfigError::Invalid { variable, value, expected })
        }
    }
}

/// Source: "Naming rules" in the Amazon DynamoDB Developer Guide. The rules exclude the double quote, so a name cannot end the
/// quoted identifier in a statement.
fn is_dynamodb_name(name: &str) -> bool {
    (3..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Source: `cookie-name` in RFC 6265, section 4.1.1.
fn is_cookie_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte))
}

fn is_http_url(value: &str) -> bool {
    Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn is_bool(value: &str) -> bool {
    matches!(value, "true" | "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        Config::read(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_table_has_no_default() {
        let config = read(&[("SESSIONS_TABLE", "sessions")]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.table.name, "sessions");
        assert_eq!(config.table.index, "user_id-index");
        assert_eq!(config.cookie_name, "ory_kratos_session");
        assert_eq!(config.allowed_origins, AllowedOrigins::default());
        assert_eq!(config.max_authentication_age, None);
        assert!(!config.error_debug);
        assert_eq!(
            read(&[]).err().as_deref(),
            Some("SESSIONS_TABLE is not set: it must name the DynamoDB table of the sessions")
        );
    }

    #[test]
    fn an_error_names_the_variable() {
        for (variable, value) in [
            ("SESSIONS_TABLE", "a\"; DROP"),
            ("SESSIONS_TABLE", "ab"),
            ("USER_ID_INDEX", "user id"),
            ("SESSION_COOKIE_NAME", "a=b"),
            ("SESSION_COOKIE_NAME", "a b"),
            ("ALLOWED_ORIGINS", "*"),
            ("ALLOWED_ORIGINS", "https://a.example,app.example.com"),
            ("MAX_AUTHENTICATION_AGE", "0"),
            ("MAX_AUTHENTICATION_AGE", "-1"),
            ("MAX_AUTHENTICATION_AGE", "15m"),
            ("MAX_AUTHENTICATION_AGE", "1e3"),
            ("MAX_AUTHENTICATION_AGE", "10000000000"),
            ("ERROR_DEBUG", "yes"),
            ("AWS_ENDPOINT_URL_DYNAMODB", "localhost:8000"),
            ("AWS_ENDPOINT_URL_DYNAMODB", "ftp://localhost"),
            ("AWS_ENDPOINT_URL", "dynamodb.local"),
        ] {
            let error = read(&[(variable, value), ("SESSIONS_TABLE", "sessions")]).err().unwrap_or_default();
            assert!(error.starts_with(variable), "{variable}={value}: {error}");
        }
    }

    #[test]
    fn every_variable_is_read() {
        let config = read(&[
            ("SESSIONS_TABLE", "prod.Sessions_1-eu"),
            ("USER_ID_INDEX", "by-user"),
            ("SESSION_COOKIE_NAME", "__Host-session"),
            ("ALLOWED_ORIGINS", "https://app.example.com"),
            ("MAX_AUTHENTICATION_AGE", "900"),
            ("ERROR_DEBUG", "true"),
            ("AWS_ENDPOINT_URL_DYNAMODB", "http://localhost:8000"),
        ])
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.table.name, "prod.Sessions_1-eu");
        assert_eq!(config.table.index, "by-user");
        assert_eq!(config.cookie_name, "__Host-session");
        assert_ne!(config.allowed_origins, AllowedOrigins::default());
        assert_eq!(config.max_authentication_age, Some(Duration::from_mins(15)));
        assert!(config.error_debug);
    }
}
