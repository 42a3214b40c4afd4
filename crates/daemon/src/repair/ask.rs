//! Questions to the person at the terminal.

use std::io::{BufRead as _, Write as _};

use api::{Error, Result};

/// Shows a warning and goes on only if the answer is "yes"; otherwise `otherwise` is the error.
pub fn sure(warning: &str, quiet: bool, otherwise: &str) -> Result<()> {
    if quiet {
        return Ok(());
    }
    print!("{warning}\nDo you want to proceed? (yes/no): ");
    std::io::stdout().flush()?;
    match line()?.eq_ignore_ascii_case("yes") {
        true => Ok(()),
        false => Err(Error::bad_request(otherwise)),
    }
}

/// The next line of standard input; empty at its end.
pub fn line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
