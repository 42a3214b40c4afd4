//! Questions to the person at the terminal.

use std::io::{BufRead, Write};

use api::{Error, Result};

fn read_line(question: &str) -> Result<String> {
    print!("{question}");
    std::io::stdout().flush()?;
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(Error::bad_request("EOF"));
    }
    Ok(line.trim_end_matches(['\n', '\r']).trim().to_owned())
}

/// Asks for a text until `check` takes it; an empty answer means the default.
pub fn text(question: &str, default: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<String> {
    loop {
        let answer = read_line(question)?;
        let answer = if answer.is_empty() { default.to_owned() } else { answer };
        match check(&answer) {
            Ok(()) => return Ok(answer),
            Err(why) => eprintln!("Error: {why}\n"),
        }
    }
}

/// Asks for a text that must not be empty.
pub fn required(question: &str, default: &str) -> Result<String> {
    text(question, default, |a| if a.is_empty() { Err("Invalid input: an answer is needed".into()) } else { Ok(()) })
}

/// Asks for one of several.
pub fn choice(question: &str, choices: &[&str], default: &str) -> Result<String> {
    text(question, default, |a| if choices.contains(&a) { Ok(()) } else { Err(format!("Invalid choice {a:?}")) })
}

/// Asks a question of yes or no.
pub fn yes_no(question: &str, default: bool) -> Result<bool> {
    loop {
        match read_line(question)?.to_lowercase().as_str() {
            "" => return Ok(default),
            "yes" | "y" => return Ok(true),
            "no" | "n" => return Ok(false),
            _ => eprintln!("Invalid input, try again.\n"),
        }
    }
}

/// Asks once; whatever is said is the answer.
pub fn line(question: &str) -> Result<String> {
    read_line(question)
}

/// Asks for a secret, without showing what is typed when there is a terminal.
pub fn secret(question: &str) -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    if !isatty(&stdin) {
        return read_line(question);
    }
    let shown = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &hidden).map_err(std::io::Error::from)?;
    let answer = read_line(question);
    let _ = tcsetattr(&stdin, OptionalActions::Now, &shown);
    println!();
    answer
}
