//! Names for instances that are given none.

use std::sync::Arc;

use api::{Error, Result};

use crate::state::Daemon;

const FIRST: &[&str] = &[
    "able", "brave", "bright", "calm", "clean", "clever", "cool", "deep", "eager", "early", "exact", "fair", "fast",
    "fine", "firm", "fond", "free", "fresh", "glad", "golden", "good", "grand", "great", "handy", "happy", "keen",
    "kind", "large", "light", "lively", "loyal", "lucky", "major", "mighty", "modern", "neat", "new", "nice", "noble",
    "open", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "ready", "right", "safe", "sharp",
    "shiny", "smart", "smooth", "solid", "steady", "strong", "sunny", "sure", "sweet", "tidy", "true", "upright",
    "valid", "vast", "vivid", "warm", "wise", "witty", "young",
];
const SECOND: &[&str] = &[
    "ant", "badger", "bass", "bear", "beetle", "bison", "bobcat", "buck", "bunny", "camel", "carp", "cat", "cicada",
    "cobra", "cod", "crab", "crane", "crow", "deer", "dog", "dove", "duck", "eagle", "eel", "elk", "falcon", "finch",
    "fox", "frog", "gecko", "goat", "goose", "gull", "hare", "hawk", "heron", "horse", "ibex", "jay", "koala", "lark",
    "lion", "lizard", "llama", "lynx", "mole", "moose", "mouse", "newt", "orca", "otter", "owl", "panda", "pigeon",
    "puma", "quail", "ram", "raven", "robin", "seal", "shark", "snail", "swan", "tiger", "toad", "trout", "turtle",
    "viper", "whale", "wolf", "wren", "yak", "zebra",
];

/// A name that no instance of the project has.
pub async fn free(daemon: &Arc<Daemon>, project: &str) -> Result<String> {
    for _ in 0..100 {
        let pick = |words: &[&'static str]| words[rand::random::<u32>() as usize % words.len()];
        let name = format!("{}-{}", pick(FIRST), pick(SECOND));
        let (project, wanted) = (project.to_owned(), name.clone());
        if daemon.db().peek(move |tx| db::instances::find(tx, &project, &wanted)).await?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::conflict("No free name was found for the instance: give it one"))
}
