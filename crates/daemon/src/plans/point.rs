//! Points at which a test can hold a daemon, in order to end it or another one just there.
//!
//! For tests only: without `INCUS_TEST_HOLD` in its environment a daemon passes every point. With it, it waits at the
//! point that the file `hold` in its folder names, for as long as that file is there, and says so in the file `held`.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use crate::state::Daemon;

static ENABLED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("INCUS_TEST_HOLD").is_some());

/// Passes the point, unless a test holds the daemon there.
pub async fn pass(daemon: &Daemon, point: &str) {
    pass_in(daemon.paths.root(), point).await;
}

/// Passes the point of the program that works on the folder `root`.
pub async fn pass_in(root: &Path, point: &str) {
    if *ENABLED {
        hold(root, point).await;
    }
}

async fn hold(root: &Path, point: &str) {
    let wanted = || std::fs::read_to_string(root.join("hold")).is_ok_and(|text| text.trim() == point);
    if !wanted() {
        return;
    }
    let _ = std::fs::write(root.join("held"), point);
    while wanted() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = std::fs::remove_file(root.join("held"));
}
