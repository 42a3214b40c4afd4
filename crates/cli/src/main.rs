//! `incus`.

fn main() {}
