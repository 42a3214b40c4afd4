//! Placement scriptlets: a person's own rule, in Starlark, for which member takes an instance.
//!
//! A scriptlet has the function `instance_placement(request, candidate_members)`. It learns more through functions that
//! the caller answers, see [`Question`], and names a member with `set_target`. This crate knows the language and nothing
//! of clusters: what goes in and out is JSON.

mod functions;
mod run;
mod value;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use starlark::ErrorKind;
use starlark::environment::{Globals, GlobalsBuilder, Module};
use starlark::eval::Evaluator;
use starlark::syntax::{AstModule, Dialect};

use run::Run;

/// The function that every placement scriptlet has.
const FUNCTION: &str = "instance_placement";
/// How a scriptlet is called in errors.
const FILE: &str = "scriptlet";
/// Bytes that a scriptlet may have in use.
const MEMORY: usize = 64 << 20;
/// The longest scriptlet, in bytes.
const LONGEST: usize = 64 << 10;
/// Operators and brackets that a line may have. Nobody writes so many, and the language takes the more memory for each the
/// more there are: a few kilobytes of them take gigabytes.
const OPERATORS: usize = 256;
/// The stack on which a scriptlet is read and runs, in bytes. What is nested in it is read by functions that call each
/// other: it can be nested as deep as it is long. Of a stack only what is used takes memory.
const STACK: usize = 1 << 30;
/// How deep functions may call each other.
const DEPTH: usize = 100;

/// What a scriptlet wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The hardware of a cluster member.
    MemberResources(String),
    /// What a cluster member is busy with.
    MemberState(String),
    /// What the instance needs.
    InstanceResources,
    /// The instances on a member and of a project; each empty for all.
    Instances {
        /// Name of the member.
        location: String,
        /// Name of the project.
        project: String,
    },
    /// How many these are.
    InstancesCount {
        /// Name of the member.
        location: String,
        /// Name of the project.
        project: String,
        /// Count those that are being made, too.
        pending: bool,
    },
    /// The members of a group; of all groups if it is empty.
    Members(String),
    /// A project.
    Project(String),
}

/// Answers what a scriptlet wants to know, in the form in which the API shows it.
pub trait Answers: Send {
    /// The answer, or why there is none: then the scriptlet fails.
    fn answer(&self, question: &Question) -> Result<Json, String>;
}

/// Why a scriptlet has not come to a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It says that the instance must not be placed, in its own words: by `fail(...)`, or by what it returns.
    Refused(String),
    /// It does not work: an error in it, an answer that could not be had, or no end within its time.
    Broken(String),
}

fn globals() -> Globals {
    GlobalsBuilder::standard().with(functions::functions).build()
}

/// Checks that a text is a scriptlet that can be asked; it is not asked anything.
///
/// # Errors
/// In words for people: where it is no Starlark, or what it lacks.
pub fn check(text: &str) -> Result<(), String> {
    on_a_deep_stack(|| checked(text))?
}

fn checked(text: &str) -> Result<(), String> {
    Module::with_temp_heap(|module| {
        let mut evaluator = Evaluator::new(&module);
        load(&mut evaluator, text, Instant::now() + Duration::from_secs(5)).map_err(|e| described(&e))?;
        let Some(function) = module.get(FUNCTION) else {
            return Err(format!("The function {FUNCTION}(request, candidate_members) is missing"));
        };
        match function.get_type() {
            "function" => Ok(()),
            other => Err(format!("{FUNCTION} is a {other} and no function")),
        }
    })
}

/// Asks a scriptlet where an instance goes: the name of one of the candidates, or `None` if it leaves that open.
///
/// `request` says what is to be placed, `candidates` are the members that may take it. Blocks for at most about `limit`.
pub fn place(
    text: &str,
    request: &Json,
    candidates: &[Json],
    answers: Box<dyn Answers>,
    limit: Duration,
) -> Result<Option<String>, Failure> {
    on_a_deep_stack(|| placed(text, request, candidates, answers, limit)).map_err(Failure::Broken)?
}

/// Does it in a thread of its own.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("scriptlet".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(|e| format!("It can't be run: {e}"))?;
        thread.join().map_err(|_| "It has crashed what runs it".to_owned())
    })
}

fn placed(
    text: &str,
    request: &Json,
    candidates: &[Json],
    answers: Box<dyn Answers>,
    limit: Duration,
) -> Result<Option<String>, Failure> {
    let names = candidates.iter().filter_map(|c| c["server_name"].as_str()).map(str::to_owned);
    let run = Rc::new(Run { answers, candidates: names.collect(), target: RefCell::default() });
    let until = Instant::now() + limit;
    let work = || {
        Module::with_temp_heap(|module| {
            let mut evaluator = Evaluator::new(&module);
            let done = (|| {
                load(&mut evaluator, text, until)?;
                let function = module.get(FUNCTION).ok_or_else(|| {
                    starlark::Error::new_other(starlark_error(format!("The function {FUNCTION} is missing")))
                })?;
                let request = value::object(module.heap(), request);
                let candidates = value::objects(module.heap(), candidates);
                evaluator.eval_function(function, &[], &[("request", request), ("candidate_members", candidates)])
            })();
            match done {
                Ok(value) if value.is_none() => Ok(()),
                Ok(value) => Err(Failure::Refused(value.unpack_str().map_or_else(|| value.to_str(), str::to_owned))),
                Err(_) if Instant::now() >= until => {
                    Err(Failure::Broken(format!("It did not come to an end within {} seconds", limit.as_secs())))
                }
                Err(e) => match e.kind() {
                    ErrorKind::Fail(why) => {
                        Err(Failure::Refused(why.to_string().trim_start_matches("fail:").trim().to_owned()))
                    }
                    _ => Err(Failure::Broken(described(&e))),
                },
            }
        })
    };
    run::during(run.clone(), work)?;
    Ok(run.target.take())
}

/// Reads the scriptlet and runs what stands outside of its functions.
fn load(evaluator: &mut Evaluator<'_, '_, '_>, text: &str, until: Instant) -> starlark::Result<()> {
    if text.len() > LONGEST {
        return Err(starlark::Error::new_other(starlark_error(format!("It is longer than {LONGEST} bytes"))));
    }
    let crowded = |line: &str| line.bytes().filter(|b| b"%+-*/|&^~<>=.([{".contains(b)).count() > OPERATORS;
    if text.lines().any(crowded) {
        let why = format!("A line has more than {OPERATORS} operators and brackets");
        return Err(starlark::Error::new_other(starlark_error(why)));
    }
    evaluator.set_max_callstack_size(DEPTH).map_err(starlark::Error::new_other)?;
    evaluator.set_max_heap_size(MEMORY).map_err(starlark::Error::new_other)?;
    evaluator.set_check_cancelled(Box::new(move || Instant::now() >= until));
    let dialect = Dialect { enable_load: false, ..Dialect::Standard };
    let ast = AstModule::parse(FILE, text.to_owned(), &dialect)?;
    evaluator.eval_module(ast, &globals()).map(drop)
}

fn starlark_error(text: String) -> anyhow::Error {
    anyhow::anyhow!(text)
}

/// An error in one line, with its place in the scriptlet.
fn described(e: &starlark::Error) -> String {
    let text = e.without_diagnostic().to_string();
    let text = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    match e.span() {
        Some(span) => format!("line {}: {text}", span.resolve_span().begin.line + 1),
        None => text,
    }
}

#[cfg(test)]
mod tests;
