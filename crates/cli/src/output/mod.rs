//! Everything that turns API answers into text: tables, CSV, JSON, YAML, sizes and times.

mod format;
#[cfg(test)]
mod golden;
mod human;
mod sort;
mod table;
pub(crate) mod yaml;

pub use format::{Column, EACH, Format, Listing, columns, print_list};
pub use human::{bytes_decimal, bytes_iec, date, is_set, level};
pub use sort::sort_rows;
pub use table::{Style, render};
pub use yaml::{from_yaml, to_yaml};
