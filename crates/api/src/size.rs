//! Sizes as people write them.

/// Bytes, from `512MiB`, `1GB`, `1024` and the like.
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" | "bytes" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "PB" => 1000_u64.pow(5),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        _ => return Err(format!("Invalid value: {text}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("Invalid value: {text}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("Invalid value: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, want) in [
            ("1024", Some(1024)),
            ("1MB", Some(1_000_000)),
            ("1MiB", Some(1_048_576)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("MiB", None),
            ("1XB", None),
            ("-1", None),
            ("99999999PiB", None),
        ] {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
    }
}
