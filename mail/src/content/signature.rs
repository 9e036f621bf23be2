//! Signatures (RFC 3676 section 4.3, and what phones add).

use super::language::{MOBILE_SIGNATURE_ENDS, MOBILE_SIGNATURE_STARTS};

/// A separator with more than this below it is a separator in the text, not the start of a signature.
const SIGNATURE_LINES_MAX: usize = 15;
const SIGNATURE_CHARS_MAX: usize = 1500;

/// Returns the lines without signature. If nothing would remain, nothing is removed.
pub(super) fn strip(lines: Vec<&str>) -> Vec<&str> {
    let mut end = lines.len();
    if let Some(separator) = separator(&lines) {
        end = separator;
    }
    loop {
        let Some(last) = lines[..end].iter().rposition(|line| !line.trim().is_empty()) else {
            return lines;
        };
        let above = lines[..last].iter().any(|line| !line.trim().is_empty());
        if !above || !is_mobile_signature(lines[last]) {
            break;
        }
        end = last;
    }
    let mut lines = lines;
    lines.truncate(end);
    lines
}

fn separator(lines: &[&str]) -> Option<usize> {
    let first_ink = lines.iter().position(|line| !line.trim().is_empty())?;
    (first_ink + 1..lines.len()).find(|at| {
        let below = &lines[at + 1..];
        let inked = below.iter().filter(|line| !line.trim().is_empty()).count();
        matches!(lines[*at].trim_end(), "--" | "—")
            && inked <= SIGNATURE_LINES_MAX
            && below.iter().map(|line| line.len()).sum::<usize>() <= SIGNATURE_CHARS_MAX
            // A quote below a signature is history, and quotes are judged by their own rules.
            && !below.iter().any(|line| line.trim_start().starts_with('>'))
    })
}

fn is_mobile_signature(line: &str) -> bool {
    let line = line.trim().trim_matches('*').to_lowercase();
    let plain = line.trim_end_matches(['.', '。', '!']);
    let length = plain.chars().count();
    (4..=100).contains(&length)
        && (MOBILE_SIGNATURE_STARTS.iter().any(|start| plain.starts_with(start))
            || length <= 50 && MOBILE_SIGNATURE_ENDS.iter().any(|end| plain.ends_with(end)) && has_device(plain))
}

/// "… gesendet" alone is an ordinary sentence; with a device or program in it, it is not.
fn has_device(line: &str) -> bool {
    [
        "iphone",
        "ipad",
        "android",
        "galaxy",
        "outlook",
        "mobil",
        "手机",
        "手機",
        "handy",
        "smartphone",
        "yahoo",
        "xiaomi",
        "huawei",
    ]
    .iter()
    .any(|device| line.contains(device))
}
