//! The environment of the function under `make run`: which variables it takes over from the terminal.

use std::ffi::OsString;

/// A name and a value.
pub type Variable = (OsString, OsString);

/// No program calls this region; every SDK asks for one.
pub const REGION: &str = "eu-central-1";

/// The whole environment of the function and of cargo, which builds it.
///
/// The terminal's AWS settings and the files with profiles are left out, because any of them can lead the function away
/// from the local database: with `AWS_USE_FIPS_ENDPOINT=true`, the SDK refuses its endpoint. The settings of the log are
/// kept.
pub fn of_function(
    inherited: impl Iterator<Item = Variable>,
    endpoint: &str,
    table: &str,
    origins: &str,
) -> Vec<Variable> {
    let own = [
        ("SESSIONS_TABLE", table),
        ("USER_ID_INDEX", "user_id-index"),
        ("ALLOWED_ORIGINS", origins),
        ("AWS_ENDPOINT_URL_DYNAMODB", endpoint),
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    let own = own.map(|(name, value)| (name.into(), value.into()));
    inherited.filter(|(name, _)| name.to_str().is_none_or(is_inherited)).chain(own).collect()
}

fn is_inherited(name: &str) -> bool {
    let is_of_aws = name.starts_with("AWS_") && !name.starts_with("AWS_LAMBDA_LOG_");
    !is_of_aws && !is_set_by_cargo(name)
}

/// Whether cargo sets this variable for what it runs. If cargo itself gets it, build scripts that read it run again, and
/// many libraries are built again.
pub fn is_set_by_cargo(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}
