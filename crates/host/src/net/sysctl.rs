//! Settings below `/proc/sys/net`; they are those of the calling thread's network namespace.

use std::{fs, io};

use super::words;

/// Reads a setting, as `net/ipv4/ip_forward`, without the line's end.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when this kernel has no such setting (IPv6 may be off altogether).
pub fn get(key: &str) -> io::Result<String> {
    let text = fs::read_to_string(path(key)).map_err(|e| words(e, format!("Failed to read sysctl \"{key}\"")))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a setting unless it has the value already, so that a read-only `/proc/sys` does no harm then.
///
/// # Errors
/// When the setting does not exist or may not be written.
pub fn set(key: &str, value: &str) -> io::Result<()> {
    if get(key)? == value {
        return Ok(());
    }
    fs::write(path(key), value).map_err(|e| words(e, format!("Failed to set sysctl \"{key}\" to \"{value}\"")))
}

/// Like [`set`], but a setting that this kernel lacks is left out; tells whether it is there.
///
/// # Errors
/// When it may not be written.
pub fn set_if_there(key: &str, value: &str) -> io::Result<bool> {
    match set(key, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

fn path(key: &str) -> String {
    format!("/proc/sys/{key}")
}
