//! A page of the documentation as something that can be done: its commands, and what they are said to print.
//!
//! Blocks marked `console` hold commands behind a prompt that names the machine, `root@server1:~# incus cluster list`,
//! each followed by its output. In the output `…` stands for anything; runs of spaces and of dashes are as long as they
//! need to be. What a reader would do by hand is told to the test in comments that aren't rendered,
//! `<!-- lab: power off server3 -->`.

/// A thing to do, in the order of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command on a machine has to print this.
    Run {
        /// The line of the page.
        line: usize,
        /// Name of the machine.
        machine: String,
        /// What is typed there; may go over several lines.
        command: String,
        /// What is printed.
        output: String,
    },
    /// Something that is done to the lab, in words.
    Lab {
        /// The line of the page.
        line: usize,
        /// What is done.
        what: String,
    },
}

const PROMPT: &str = ":~# ";

/// The steps of a page.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut inside = false;
    for (line, text) in (1..).zip(page.lines()) {
        if text.starts_with("```") {
            inside = text == "```console";
            continue;
        }
        if let Some(what) = text.strip_prefix("<!-- lab: ").and_then(|t| t.strip_suffix(" -->")) {
            steps.push(Step::Lab { line, what: what.to_owned() });
        }
        if !inside {
            continue;
        }
        match text.strip_prefix("root@").and_then(|t| t.split_once(PROMPT)) {
            Some((machine, command)) => steps.push(Step::Run {
                line,
                machine: machine.to_owned(),
                command: command.to_owned(),
                output: String::new(),
            }),
            None => continued(&mut steps, text),
        }
    }
    steps
}

/// A line below a command: more of it after a backslash and in a here-document, else its output.
fn continued(steps: &mut [Step], text: &str) {
    let Some(Step::Run { command, output, .. }) = steps.last_mut() else { return };
    let here = command.contains("<<EOF") && !command.ends_with("\nEOF");
    if output.is_empty() && (command.ends_with('\\') || here) {
        command.push('\n');
        command.push_str(text);
    } else {
        output.push_str(text);
        output.push('\n');
    }
}

/// True if what was printed is what the page says.
pub fn fits(said: &str, printed: &str) -> bool {
    let (said, printed) = (even(said), even(printed));
    if said.trim() == "…" {
        return true;
    }
    let mut pieces = said.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

/// Text with one space for several, and one dash for several, and nothing at the ends of lines.
fn even(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim().lines() {
        for c in line.trim_end().chars() {
            if !(matches!(c, ' ' | '-') && out.ends_with(c)) {
                out.push(c);
            }
        }
        out.push('\n');
    }
    out
}

#[test]
fn a_page_is_read_as_what_to_do() {
    let page = "text\n<!-- lab: power off server3 -->\n```console\nroot@server1:~# incus list \\\n  -f csv\na\n\nb\n\
                root@server2:~# cat <<EOF\nx\nEOF\nx\n```\n```\nroot@server1:~# not this\n```\n";
    let run = |line, machine: &str, command: &str, output: &str| Step::Run {
        line,
        machine: machine.into(),
        command: command.into(),
        output: output.into(),
    };
    assert_eq!(
        steps(page),
        [
            Step::Lab { line: 2, what: "power off server3".into() },
            run(4, "server1", "incus list \\\n  -f csv", "a\n\nb\n"),
            run(9, "server2", "cat <<EOF\nx\nEOF", "x\n"),
        ]
    );
}

#[test]
fn output_fits_with_gaps_and_other_widths_and_not_otherwise() {
    for (said, printed, want) in [
        ("a  b\n+---+", "a b\n+-----+\n", true),
        ("a\n", "a\nb", false),
        ("a …\nz", "a 1\n2\nz", true),
        ("a …\nz", "a 1\n2\nz\ny", false),
        ("…", "", true),
        ("", "x", false),
        ("a … b … c", "a 1 c", false),
    ] {
        assert_eq!(fits(said, printed), want, "{said:?} {printed:?}");
    }
}
