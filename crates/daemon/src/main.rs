//! `incusd`.

fn main() {}
