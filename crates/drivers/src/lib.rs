//! `drivers`.
