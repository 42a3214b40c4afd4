//! The terminal of a session: raw mode, its size, and the keys that belong to us.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal in raw mode; put back as it was when this is dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Puts the terminal at standard input into raw mode, if it is one.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// True if standard input and output are terminals.
pub fn interactive() -> bool {
    isatty(std::io::stdin()) && isatty(std::io::stdout())
}

/// Columns and rows of the terminal, if there is one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
