//! The console in a real browser: Chromium, driven by the scripts in `tests/console`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::tools::ETCDCTL_PATIENCE;

/// A script that uses the console of the server at `endpoint`. `scripts/browser` installs what it needs.
pub(crate) fn script(name: &str, endpoint: &str, etcdctl: &Path) -> Command {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = project.join("target/tools/console");
    assert!(
        tools.join("node_modules/playwright-core").is_dir(),
        "the tests of the console need a browser and its remote control: run scripts/browser, or scripts/test"
    );
    let chromium = PathBuf::from("/usr/bin/chromium");
    assert!(chromium.exists(), "there is no Chromium at {}: run scripts/browser", chromium.display());
    let mut command = Command::new("node");
    command
        .arg(project.join("tests/console").join(name))
        .env("TOOLS", tools)
        .env("CHROMIUM", chromium)
        .env("SERVER", format!("http://{endpoint}"))
        .env("ETCDCTL", etcdctl)
        .envs(ETCDCTL_PATIENCE);
    if let Some(folder) = std::env::var_os("RETCD_SCREENSHOTS") {
        command.env("SCREENSHOTS", folder);
    }
    command
}
