//! Rules of the house that the compiler does not check: the direction of imports, one door to the database, a first line
//! on every module, the size of files, migrations that can be undone, and documents that name existing paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each room may import of the crate. A longer entry allows that module only.
const ALLOWED: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("crypto", &[]),
    ("config", &["protocol"]),
    ("client", &["protocol", "crypto", "config"]),
    ("server", &["protocol", "config", "crypto::verify"]),
    // Of the protocol: ids and enums, never frames.
    ("tui", &["client", "config", "protocol"]),
    ("cli", &["client", "config", "protocol", "server", "tui"]),
];

/// Lines of a file without its tests.
const MAX_LINES: usize = 800;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust source under `src`, with its path relative to it.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    walkdir::WalkDir::new(&src)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
        .map(|entry| {
            let name = entry.path().strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/") || name.ends_with("_tests.rs") || name.ends_with("conformance.rs")
}

#[test]
fn rooms_import_only_what_the_architecture_allows() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let room = name.split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = ALLOWED.iter().find(|(of, _)| *of == room) else { continue };
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for (at, _) in code.match_indices("crate::") {
                let path = &code[at + "crate::".len()..];
                let ok = path.starts_with(room)
                    || allowed.iter().any(|allowed| {
                        path.strip_prefix(allowed)
                            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                    });
                if !ok {
                    wrong.push(format!("src/{name}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "forbidden imports:\n{}", wrong.join("\n"));
}

#[test]
fn diesel_is_used_only_beside_the_row_types() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !["server/db/", "server/jobs/", "client/store/"].iter().any(|room| name.starts_with(room)))
        .filter(|(_, text)| {
            without_tests(text).lines().any(|line| !line.trim_start().starts_with("//") && line.contains("diesel"))
        })
        .map(|(name, _)| name)
        .collect();
    assert!(wrong.is_empty(), "diesel outside db/: {wrong:?}");
}

#[test]
fn the_no_await_rooms_have_no_await_clock_or_global_randomness() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if !(name.starts_with("crypto/") || name.starts_with("client/engine/")) || is_test_file(&name) {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for banned in [".await", "SystemTime", "Instant::", "SysRng", "std::fs", "std::net", "tokio::", "thread_rng"] {
                if code.contains(banned) {
                    wrong.push(format!("src/{name}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not pure:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.trim_start().starts_with("//!")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "modules without a `//!` line: {silent:?}");
}

#[test]
fn no_file_is_longer_than_its_budget() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !is_test_file(name))
        .map(|(name, text)| (without_tests(&text).lines().count(), name))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, name)| format!("{name}: {lines}"))
        .collect();
    assert!(long.is_empty(), "files over {MAX_LINES} lines without their tests: {long:?}");
}

#[test]
fn every_migration_can_be_undone() {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(root().join("migrations")).unwrap().map(Result::unwrap) {
        if !entry.path().is_dir() {
            continue;
        }
        for file in ["up.sql", "down.sql"] {
            let text = std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            assert!(!text.trim().is_empty(), "{} has no {file}", entry.path().display());
        }
        numbers.push(entry.file_name().to_str().unwrap().split('_').next().unwrap().to_owned());
    }
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "two migrations have one number");
}

#[test]
fn documents_name_paths_that_exist() {
    let mut missing = Vec::new();
    let documents = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for document in documents.chain([root().join("README.md")]) {
        let Ok(text) = std::fs::read_to_string(&document) else { continue };
        // Odd pieces are between backticks.
        for name in text.split('`').skip(1).step_by(2) {
            let looks_like_a_path =
                ["src/", "tests/", "migrations/", "docs/", "benches/", ".ci/"].iter().any(|start| name.starts_with(start))
                    && !name.contains([' ', '*', '<', '{', '…', '\n']);
            // `path::item`: the file must also say the item's name.
            let (path, item) = name.split_once("::").unwrap_or((name, ""));
            let path = root().join(path.trim_end_matches('/'));
            let exists =
                path.exists() && (item.is_empty() || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(item)));
            if looks_like_a_path && !exists {
                missing.push(format!("{}: {name}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(missing.is_empty(), "documents name paths that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn no_integration_test_file_is_forgotten() {
    let tests = root().join("tests/it");
    let mut forgotten = Vec::new();
    for entry in walkdir::WalkDir::new(&tests).into_iter().map(Result::unwrap) {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_none_or(|extension| extension != "rs") || ["mod", "main"].contains(&name) {
            continue;
        }
        let parent = path.parent().unwrap();
        let index = if parent == tests { parent.join("main.rs") } else { index_of(parent) };
        if !std::fs::read_to_string(&index).unwrap().contains(&format!("mod {name};")) {
            forgotten.push(path.display().to_string());
        }
    }
    assert!(forgotten.is_empty(), "test files that nothing includes: {forgotten:?}");
}

fn index_of(folder: &Path) -> PathBuf {
    let inside = folder.join("mod.rs");
    if inside.exists() { inside } else { folder.with_extension("rs") }
}
