// SPDX-License-Identifier: GPL-2.0

//! Sizes in the format of QEMU's command line.

/// Parses a number with an optional suffix (`k`, `M`, `G`, `T`, `b`, case does not matter); the
/// unit without one is `unit` bytes. [`None`] if it is not a size, or too large.
pub fn parse(text: &str, unit: u64) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    let number: u64 = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    number.checked_mul(factor).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse("512", 1 << 20), Some(512 << 20));
        assert_eq!(parse("2G", 1 << 20), Some(2 << 30));
        assert_eq!(parse("128k", 1), Some(128 << 10));
        assert_eq!(parse("0x1000", 1), Some(4096));
        for bad in ["", "G", "1X", "-1", "0", "99999999999T"] {
            assert_eq!(parse(bad, 1), None, "{bad}");
        }
    }
}
