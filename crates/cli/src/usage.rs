//! What a wrong command line gets: the words and exit codes that people and scripts know.

use clap::{
    Command, CommandFactory, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::cmd::Cli;

const HELP: &str = "Description:\n  {about-with-newline}\nUsage:\n  {usage}{after-help}\n\n{all-args}";

/// Reports what clap found wrong (or the help that was asked for); returns the exit code.
pub fn report(e: &Error, args: &[String]) -> u8 {
    let said = |text: String| {
        eprintln!("Error: {text}");
        1
    };
    let what = |kind: ContextKind| match e.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(ContextValue::Strings(s)) => s.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    match e.kind() {
        ErrorKind::DisplayVersion => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            0
        }
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print!("{}", help(args));
            0
        }
        ErrorKind::InvalidSubcommand => {
            let (path, _) = leaf(args);
            said(format!("unknown command {:?} for {:?}", what(ContextKind::InvalidSubcommand), path.join(" ")))
        }
        ErrorKind::UnknownArgument => {
            let arg = what(ContextKind::InvalidArg);
            if arg.starts_with("--") {
                said(format!("unknown flag: {arg}"))
            } else if let Some(letter) = arg.strip_prefix('-').and_then(|a| a.chars().next()) {
                said(format!("unknown shorthand flag: '{letter}' in {arg}"))
            } else {
                print!("{}", help(args));
                said("Invalid number of arguments".into())
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let (_, rest) = leaf(args);
            print!("{}", help(args));
            if rest.is_empty() { 0 } else { said("Invalid number of arguments".into()) }
        }
        ErrorKind::InvalidValue if what(ContextKind::InvalidValue).is_empty() => {
            let flag = what(ContextKind::InvalidArg);
            said(format!("flag needs an argument: {}", flag.split([' ', '=']).next().unwrap_or(&flag)))
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(e).map(ToString::to_string).unwrap_or_default();
            let flag = what(ContextKind::InvalidArg);
            let flag = flag.split([' ', '=']).next().unwrap_or(&flag);
            if source.contains("flag \"") {
                said(source)
            } else {
                said(format!("invalid argument {:?} for {flag:?} flag: {source}", what(ContextKind::InvalidValue)))
            }
        }
        _ => said(e.to_string().trim_start_matches("error: ").lines().next().unwrap_or_default().to_owned()),
    }
}

/// The path of the command that the arguments name, and what follows it.
fn leaf(args: &[String]) -> (Vec<String>, Vec<String>) {
    let root = Cli::command();
    let mut command = &root;
    let mut path = vec!["incus".to_owned()];
    let mut rest = args.iter().skip(1);
    let mut following = Vec::new();
    while let Some(arg) = rest.next() {
        match command.find_subcommand(arg) {
            Some(sub) => {
                command = sub;
                path.push(sub.get_name().to_owned());
            }
            None if arg.starts_with('-') && command.has_subcommands() => {}
            None if arg == "help" => {}
            None => {
                following.push(arg.clone());
                following.extend(rest.by_ref().cloned());
            }
        }
    }
    (path, following)
}

fn help(args: &[String]) -> String {
    let (path, _) = leaf(args);
    let mut root = dressed(Cli::command());
    root.build();
    let found = path.iter().skip(1).try_fold(&root, |command, name| command.find_subcommand(name));
    let mut command = found.unwrap_or(&root).clone();
    let long = command.render_long_help().to_string();
    let mut out = String::new();
    for line in long.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The command and all below it with our layout of help.
fn dressed(command: Command) -> Command {
    let aliases: Vec<String> = command.get_visible_aliases().map(str::to_owned).collect();
    let name = command.get_name().to_owned();
    let names: Vec<String> = command.get_subcommands().map(|s| s.get_name().to_owned()).collect();
    let mut command = command.help_template(HELP).subcommand_help_heading("Available Commands").next_help_heading(None);
    if !aliases.is_empty() && command.get_after_help().is_none() {
        command = command.after_help(format!("\n\nAliases:\n  {name}, {}", aliases.join(", ")));
    }
    for name in names {
        command = command.mut_subcommand(name, dressed);
    }
    command
}
