//! `/1.0/instances/{name}/exec` and `/console`: programs and terminals in an instance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, Background, Raw, Sync};

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceExecPost {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// True to start it only when the websockets are connected.
    #[serde(rename = "wait-for-websocket")]
    pub wait_for_websocket: bool,
    /// True to run it in a terminal.
    pub interactive: bool,
    /// Variables beside those that are always there.
    pub environment: BTreeMap<String, String>,
    /// Columns of the terminal.
    pub width: u16,
    /// Rows of the terminal.
    pub height: u16,
    /// True to keep its output in files. Not for a program in a terminal.
    #[serde(rename = "record-output")]
    pub record_output: bool,
    /// User that it runs as.
    pub user: u32,
    /// Group that it runs as.
    pub group: u32,
    /// Directory that it runs in.
    pub cwd: String,
}

/// What comes over the `control` websocket, one in each message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceExecControl {
    /// `window-resize` (with `width` and `height`) or `signal`.
    pub command: String,
    /// More about it; clients in Go write `null` for nothing.
    pub args: Option<BTreeMap<String, String>>,
    /// The number of a signal.
    pub signal: i32,
}

/// A console to connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceConsolePost {
    /// Columns of the terminal.
    pub width: u16,
    /// Rows of the terminal.
    pub height: u16,
    /// `console` or `vga`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True to end the connection of whoever is connected.
    pub force: bool,
}

crate::endpoints! {
    /// Run a program. Its input and output flow through the websockets of the operation.
    EXEC = POST "/1.0/instances/{name}/exec" (InstanceExecPost) -> Background, Project, At::Instance, "";
    /// Connect to the console, through the websockets of the operation.
    CONSOLE = POST "/1.0/instances/{name}/console" (InstanceConsolePost) -> Background, Project, At::Instance,
        "console";
    /// What the console has shown.
    CONSOLE_LOG = GET "/1.0/instances/{name}/console" -> Raw, Project, At::Instance, "console";
    /// Forget what the console has shown.
    CONSOLE_CLEAR = DELETE "/1.0/instances/{name}/console" -> Sync<()>, Project, At::Instance, "console";
}
