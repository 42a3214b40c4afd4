//! The book in `docs/`: every page is in its table of contents, and every link leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::sh::{Result, workspace};

/// What is wrong with the book and the documents beside it, in words.
pub fn wrong() -> Result<Vec<String>> {
    let root = workspace();
    let docs = root.join("docs");
    let mut pages = Vec::new();
    pages_below(&docs, &mut pages)?;
    let contents = docs.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> =
        links(&fs::read_to_string(&contents)?).into_iter().map(|link| docs.join(link)).collect();
    let mut wrong: Vec<String> = pages
        .iter()
        .filter(|page| **page != contents && !listed.contains(*page))
        .map(|page| format!("{} is not in docs/SUMMARY.md", page.display()))
        .collect();
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name)));
    for page in pages {
        let text = fs::read_to_string(&page)?;
        let dead = links(&text).into_iter().filter(|link| !leads_somewhere(&page, link));
        wrong.extend(dead.map(|link| format!("{}: the link to {link} leads nowhere", page.display())));
    }
    Ok(wrong)
}

fn pages_below(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for path in entries.into_iter().map(|e| e.path()) {
        if path.is_dir() {
            pages_below(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Where the links of a page lead, those in code left out.
fn links(text: &str) -> Vec<String> {
    let mut inside = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    let all = prose.flat_map(|line| line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)));
    all.map(str::to_owned).collect()
}

fn leads_somewhere(page: &Path, link: &str) -> bool {
    if link.contains("://") {
        return true;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.with_file_name("").join(file) };
    if anchor.is_empty() {
        return target.exists();
    }
    let text = fs::read_to_string(target).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix('#')).any(|heading| slug(heading) == anchor)
}

/// The anchor of a heading: small letters, digits and dashes.
fn slug(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_anchors_are_found() {
        let text = "a [b](c.md) and [d](#e-f)\n```\n[no](link.md)\n```\n[x](https://y)\n";
        assert_eq!(links(text), ["c.md", "#e-f", "https://y"]);
        assert_eq!(slug("## A member that was removed, by `force`!"), "a-member-that-was-removed-by-force");
        let page = workspace().join("docs/repairing-a-cluster.md");
        for (link, want) in [
            ("#a-ghost", true),
            ("#nowhere", false),
            ("configuration.md", true),
            ("nothing.md", false),
            ("https://example.net", true),
        ] {
            assert_eq!(leads_somewhere(&page, link), want, "{link}");
        }
    }
}
