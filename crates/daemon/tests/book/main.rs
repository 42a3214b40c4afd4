//! The pages of the documentation are true: their commands, in order, on a real cluster, print what the pages say.
#![allow(clippy::unwrap_used)]

mod page;

use std::path::{Path, PathBuf};

use lab::cluster::{PATIENCE, Programs};
use lab::{Cluster, Lab, Result};

use page::Step;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// The addresses of pages are those that are kept for documents (RFC 5737); what all machines mount is a folder that they
/// all see.
fn in_the_lab(cluster: &Cluster, text: &str) -> String {
    text.replace("192.0.2.10", "10.77.0.").replace("/mnt/nfs", &cluster.lab.dir.join("nfs").to_string_lossy())
}

fn number(machine: &str) -> Result<usize> {
    let number = machine.strip_prefix("server").and_then(|n| n.parse().ok());
    number.ok_or_else(|| format!("{machine} is no machine of the lab").into())
}

/// Runs a command as the page has it, with our programs before all others.
fn typed(cluster: &Cluster, machine: &str, command: &str) -> Result<String> {
    let programs = cluster.programs.incus.parent().unwrap_or(Path::new("/")).display();
    let machine = &cluster.lab.machines[number(machine)? - 1];
    let script = format!("cd; export PATH={programs}:$PATH TZ=UTC; exec 2>&1; {}", in_the_lab(cluster, command));
    Ok(machine.run("sh", &["-c", &script], "")?.out)
}

/// What is done to the lab beside the commands.
fn done(cluster: &mut Cluster, what: &str) -> Result<()> {
    let words: Vec<&str> = what.split(' ').collect();
    match words[..] {
        ["power", "off", machine] => cluster.lab.machine(number(machine)?).power_off(),
        ["power", "on", machine] => {
            cluster.lab.power_on(number(machine)?)?;
            cluster.start(number(machine)?)?;
        }
        ["image", alias] => cluster.import_busybox(alias)?,
        ["join", machine] => cluster.join(number(machine)?)?,
        ["until", machine, "refuses", ..] => cluster.until(what, || {
            let said = typed(cluster, machine, &words[3..].join(" "))?;
            Ok(said.starts_with("Error").then_some(()))
        })?,
        ["upgrade", machine] => {
            let next = cluster.programs.next()?;
            let machine = cluster.lab.machine(number(machine)?);
            machine.end_daemon("TERM", PATIENCE)?;
            machine.start_daemon(&next, &[])?;
            machine.wait_ready(PATIENCE)?;
        }
        ["vote", ..] => {
            let numbers = words[1..].iter().map(|m| number(m)).collect::<Result<Vec<_>>>()?;
            cluster.vote(numbers[0], &numbers)?;
        }
        ["wait", machine, "reads", other, ..] => cluster.until(what, || {
            let seen = cluster.member(number(machine)?, number(other)?, 'm')?;
            Ok((seen == words[4..].join(" ")).then_some(()))
        })?,
        ["wait", machine, "shows", other, status] => cluster.until(what, || {
            let seen = cluster.member(number(machine)?, number(other)?, 's')?;
            Ok((seen == status).then_some(()))
        })?,
        _ => return Err(format!("the lab can't do this: {what}").into()),
    }
    Ok(())
}

/// Does what a page says.
fn is_true(mut cluster: Cluster, file: &str) -> Result<()> {
    let text = std::fs::read_to_string(docs().join(file))?;
    std::fs::create_dir(cluster.lab.dir.join("nfs"))?;
    for step in page::steps(&text) {
        match step {
            Step::Lab { line, what } => {
                done(&mut cluster, &what).map_err(|e| format!("{file}:{line}: {what}: {e}"))?;
            }
            Step::Run { line, machine, command, output } => {
                let printed = typed(&cluster, &machine, &command)?;
                if !page::fits(&in_the_lab(&cluster, &output), &printed) {
                    eprintln!("{}\n{command}\nprints\n{printed}\nand not\n{output}", cluster.lab.logs());
                    return Err(format!("{file}:{line}: another output").into());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn forming_a_cluster() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    is_true(Cluster::daemons(Lab::temporary("forming", 3)?, Programs::built()?)?, "forming-a-cluster.md")
}

#[test]
fn managing_a_cluster() -> Result<()> {
    if lab::skip(&["/bin/busybox", "openssl"]) {
        return Ok(());
    }
    is_true(Cluster::temporary("managing", 3)?, "managing-a-cluster.md")
}

#[test]
fn roles_and_failures() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    is_true(Cluster::temporary("roles", 3)?, "roles-and-failures.md")
}

#[test]
fn upgrading_a_cluster() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    is_true(Cluster::temporary("upgrading", 3)?, "upgrading.md")
}

/// The page is there in the language of the people who asked for it too, with the same commands.
#[test]
fn the_japanese_page_says_the_same() -> Result<()> {
    let steps = |file: &str| -> Result<Vec<Step>> {
        let text = std::fs::read_to_string(docs().join(file))?;
        let without_lines = page::steps(&text).into_iter().map(|step| match step {
            Step::Run { machine, command, output, .. } => Step::Run { line: 0, machine, command, output },
            Step::Lab { what, .. } => Step::Lab { line: 0, what },
        });
        Ok(without_lines.collect())
    };
    let english = steps("managing-a-cluster.md")?;
    assert!(english.len() > 20);
    assert_eq!(steps("ja/managing-a-cluster.md")?, english);
    Ok(())
}
