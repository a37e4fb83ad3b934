//! `docs/security.md` has a row for each of etcd's advisories, with the tests that cover it. This checks that the tests
//! are there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Those that a row has to name.
const ADVISORIES: [&str; 20] = [
    "CVE-2018-1098",
    "CVE-2018-1099",
    "CVE-2018-16886",
    "CVE-2020-15106",
    "CVE-2020-15112",
    "CVE-2020-15113",
    "CVE-2020-15114",
    "CVE-2020-15115",
    "CVE-2020-15136",
    "CVE-2021-28235",
    "CVE-2023-32082",
    "CVE-2023-44487",
    "CVE-2026-33343",
    "CVE-2026-33413",
    "CVE-2026-44283",
    "CVE-2026-73500",
    "GHSA-3wh4",
    "GHSA-vjg6",
    "GHSA-xg4h",
    "#22386",
];

#[test]
fn every_advisory_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).expect("the page is there");
    let mut functions = BTreeSet::new();
    for file in ["src", "tests"].iter().flat_map(|folder| sources(&root.join(folder))) {
        let text = fs::read_to_string(file).expect("sources are readable");
        let names = text.split("fn ").skip(1).map(|rest| rest.split(['(', '<']).next().unwrap_or_default());
        functions.extend(names.map(str::to_owned));
    }
    let mut missing: Vec<String> = ADVISORIES
        .iter()
        .filter(|advisory| !page.contains(**advisory))
        .map(|advisory| advisory.to_string())
        .collect();
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Fault")) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !tests.starts_with("none: ") {
            missing.push(format!("no test: {row}"));
        }
        missing.extend(
            named.iter().filter(|name| !functions.contains(**name)).map(|name| format!("{name}: {row}")),
        );
    }
    assert_eq!(missing, [""; 0]);
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
