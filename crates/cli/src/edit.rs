//! Changing something as YAML: from standard input, or in an editor until it is right.

use std::{io::Read, process::Command};

use api::{Error, Result};
use serde_json::Value;

use crate::{output::from_yaml, prompt};

/// What was given on standard input, if it is not a terminal.
pub fn piped() -> Result<Option<String>> {
    if rustix::termios::isatty(std::io::stdin()) {
        return Ok(None);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(Some(text))
}

/// The YAML given on standard input, if it is not a terminal and not empty.
pub fn piped_yaml() -> Result<Option<Value>> {
    let Some(text) = piped()? else { return Ok(None) };
    if text.trim().is_empty() {
        return Ok(None);
    }
    from_yaml(&text).map(Some)
}

/// Opens the editor on `content` and returns what was saved.
pub fn text(content: &[u8], suffix: &str) -> Result<Vec<u8>> {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let editor = set("VISUAL")
        .or_else(|| set("EDITOR"))
        .or_else(|| ["editor", "vi", "emacs", "nano"].into_iter().find(|e| in_path(e)).map(str::to_owned));
    let editor =
        editor.ok_or_else(|| Error::bad_request("No text editor found, please set the EDITOR environment variable"))?;
    let mut file = tempfile::Builder::new().prefix("incus_editor_").suffix(suffix).tempfile()?;
    std::io::Write::write_all(&mut file, content)?;
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file.path()).status()?;
    if !status.success() {
        return Err(Error::bad_request(format!("The editor {editor:?} failed ({status}); nothing was changed")));
    }
    Ok(std::fs::read(file.path())?)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Lets a person edit YAML until `apply` takes it; `retry` decides whether an answer to a refusal is to edit again.
pub async fn yaml<F>(content: &str, mut apply: impl FnMut(Value) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut content = content.as_bytes().to_vec();
    loop {
        content = text(&content, ".yaml")?;
        let result = match from_yaml(&String::from_utf8_lossy(&content)) {
            Ok(value) => apply(value).await,
            Err(e) => Err(e),
        };
        let Err(e) = result else { return Ok(()) };
        eprintln!("Config parsing error: {e}");
        prompt::line("Press enter to open the editor again or ctrl+c to abort change\n")?;
    }
}
