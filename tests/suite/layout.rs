//! The plan of `src/`, held against its imports: see the table in `src/lib.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The modules from the top down. Each may import those below it, and itself.
const FLOORS: [&[&str]; 8] =
    [&["main"], &["handler"], &["revocation"], &["dynamodb", "log"], &["config"], &["http"], &["rules"], &["session"]];

/// A file of `src/` without its unit tests: the module that it belongs to, and its lines.
fn files() -> Vec<(PathBuf, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let inside = path.strip_prefix(&src).expect("a file of src");
            let module = inside.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
            files.push((inside.to_owned(), module.trim_end_matches(".rs").to_owned(), code));
        }
    }
    files.retain(|(_, module, _)| module != "lib");
    files
}

/// The first names after each `prefix` in some code: `a` and `b` of `crate::{a::X, b}`.
fn names_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    code.split(prefix).skip(1).map(|rest| rest.split(|char| !is_name(char)).next().unwrap_or_default()).collect()
}

#[test]
fn no_module_imports_one_above_it_or_beside_it() {
    let floors: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(floor, modules)| modules.iter().map(move |name| (*name, floor))).collect();
    let files = files();
    assert!(files.len() > 20, "{}", files.len());
    for (path, module, code) in &files {
        let floor = floors.get(module.as_str()).unwrap_or_else(|| panic!("{module} is on no floor"));
        for prefix in ["crate::", "disable_my_other_sessions::"] {
            assert!(!code.contains(&format!("{prefix}{{")), "{}: one import a line, to be read here", path.display());
            for name in names_after(code, prefix) {
                let below = floors.get(name).is_some_and(|other| other > floor);
                assert!(below || name == module, "{} imports {name}", path.display());
            }
        }
    }
}

#[test]
fn only_dynamodb_and_main_name_the_sdk_and_the_rules_import_nothing_but_sessions_and_the_time() {
    for (path, module, code) in files() {
        let names_sdk = code.contains("aws_config") || code.contains("aws_s") || code.contains("aws_runtime");
        assert!(!names_sdk || ["dynamodb", "main"].contains(&module.as_str()), "{} names the SDK", path.display());
        if module != "rules" {
            continue;
        }
        for line in code.lines().filter(|line| line.trim_start().starts_with("use ")) {
            let allowed = ["use std::", "use super::", "use crate::session::", "use tokio::time::Instant;"];
            assert!(allowed.iter().any(|start| line.starts_with(start)), "{}: {line}", path.display());
        }
        let code = code.replace("use tokio::time::Instant;", "");
        assert!(!code.contains("async ") && !code.contains("tokio"), "{} is not plain data", path.display());
    }
}

#[test]
fn no_function_of_the_rules_is_longer_than_fifty_lines() {
    for (path, _, code) in files().iter().filter(|(_, module, _)| module == "rules") {
        let mut begin = None;
        for (number, line) in code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if line.contains("fn ") && line.trim_end().ends_with('{') {
                begin = Some((number, indent));
            }
            if let Some((first, depth)) = begin
                && line.trim() == "}"
                && indent == depth
            {
                assert!(number - first < 50, "{}: the function at {first}", path.display());
                begin = None;
            }
        }
    }
}
