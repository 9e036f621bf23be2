//! How an input is taken apart.

/// Returns the first octet, which steers a target, and the rest, which is what the target reads.
///
/// Corpora are written by hand too: what steers is a digit or letter, and its low bits are what counts.
pub fn steered(data: &[u8]) -> (u8, &[u8]) {
    match data.split_first() {
        Some((steer, rest)) => (*steer, rest),
        None => (0, data),
    }
}

/// Returns one bit of what steers.
pub fn bit(steer: u8, number: u32) -> bool {
    steer.checked_shr(number).unwrap_or_default() & 1 == 1
}

/// Returns the sizes in which an input is cut: one octet, some sizes that divide nothing evenly, and one that the input chose.
pub fn piece_sizes(steer: u8) -> [usize; 4] {
    [1, 2, 7, usize::from(steer % 61) + 3]
}

/// Asserts that a text can go anywhere a text of this house may go.
pub fn assert_text(what: &str, text: &str) {
    assert!(!text.contains('\0'), "{what} holds a NUL");
}

/// Asserts that a text is one line.
pub fn assert_line(what: &str, text: &str) {
    assert_text(what, text);
    assert!(!text.contains(['\r', '\n']), "{what} is more than a line: {text:?}");
}

/// Returns whether some CR stands without its LF, or some LF without its CR.
pub fn has_bare_line_end(octets: &[u8]) -> bool {
    let bare = |at: usize| match octets[at] {
        b'\r' => octets.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || octets[at - 1] != b'\r',
        _ => false,
    };
    (0..octets.len()).any(bare)
}
