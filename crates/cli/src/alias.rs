//! Command aliases: `shell` and whatever stands under `aliases:` in the configuration.

use api::Result;
use clap::Command;

use crate::config::Config;

const ARGS: &str = "@ARGS@";

/// Replaces an alias at the beginning of the command line by what it stands for.
pub fn expand(command: &Command, args: Vec<String>) -> Result<Vec<String>> {
    let Some(first) = args.get(1) else { return Ok(args) };
    if first.starts_with('-') || first.starts_with("__") || command.find_subcommand(first).is_some() || first == "help"
    {
        return Ok(args);
    }
    let mut aliases = Config::load()?.aliases;
    aliases.entry("shell".into()).or_insert_with(|| format!("exec {ARGS} -- su -l"));
    let found = aliases.iter().filter_map(|(name, target)| {
        let words: Vec<&str> = name.split_whitespace().collect();
        let here = args[1..].iter().map(String::as_str).take(words.len()).eq(words.iter().copied());
        (here && !words.is_empty()).then_some((words.len(), target))
    });
    Ok(match found.max_by_key(|(len, _)| *len) {
        Some((len, target)) => substitute(&args[0], target, &args[1 + len..]),
        None => args,
    })
}

fn substitute(program: &str, target: &str, rest: &[String]) -> Vec<String> {
    let mut out = vec![program.to_owned()];
    let mut placed = false;
    let mut used = vec![false; rest.len()];
    for word in split(target) {
        let numbered =
            word.strip_prefix("@ARG").and_then(|w| w.strip_suffix('@')).and_then(|n| n.parse::<usize>().ok());
        if word == ARGS {
            placed = true;
            out.extend(rest.iter().zip(&used).filter(|(_, u)| !**u).map(|(a, _)| a.clone()));
        } else if let Some(arg) = numbered.and_then(|n| rest.get(n.wrapping_sub(1)).map(|a| (n - 1, a))) {
            used[arg.0] = true;
            out.push(arg.1.clone());
        } else {
            out.push(word);
        }
    }
    if !placed {
        out.extend(rest.iter().zip(&used).filter(|(_, u)| !**u).map(|(a, _)| a.clone()));
    }
    out
}

/// Splits a line into words as a shell does: quotes hold words together.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => (quote, open) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                    open = false;
                }
            }
            (c, None) => word.push(c),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_where_the_alias_says() {
        for (target, rest, want) in [
            ("list -c n", &["x"][..], "incus|list|-c|n|x"),
            ("exec @ARGS@ -- su -l", &["c1"], "incus|exec|c1|--|su|-l"),
            ("exec @ARG1@ -- sh -c 'a b' @ARGS@", &["c1", "y"], "incus|exec|c1|--|sh|-c|a b|y"),
        ] {
            let rest: Vec<String> = rest.iter().map(|a| (*a).to_owned()).collect();
            assert_eq!(substitute("incus", target, &rest).join("|"), want);
        }
    }
}
