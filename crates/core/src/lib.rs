//! `core`.
