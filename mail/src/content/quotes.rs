//! Quoted history in plain text.

use super::language::{ATTRIBUTIONS, block_label, is_forward_marker, is_original_message};

/// Returns the lines without quoted history. If nothing of one's own would remain, nothing is removed.
pub(super) fn strip(lines: Vec<&str>) -> Vec<&str> {
    let mut keep = vec![true; lines.len()];
    if let Some(cut) = cut_at(&lines) {
        keep[cut..].fill(false);
    }
    strip_blocks(&lines, &mut keep);
    let remains = lines.iter().zip(&keep).any(|(line, keep)| *keep && !line.trim().is_empty());
    if !remains {
        return lines;
    }
    lines.into_iter().zip(keep).filter_map(|(line, keep)| keep.then_some(line)).collect()
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

fn is_quoted(line: &str) -> bool {
    line.trim_start().starts_with('>')
}

/// Returns where history without `>` marks begins: everything below belongs to it.
fn cut_at(lines: &[&str]) -> Option<usize> {
    let mut own_text = false;
    for (at, line) in lines.iter().enumerate() {
        if is_blank(line) {
            continue;
        }
        if is_forward_marker(line) {
            return None;
        }
        if own_text && !is_quoted(line) {
            if is_original_message(line) || is_header_block(lines, at) {
                return Some(before_rule(lines, at));
            }
            if let Some(length) = attribution(lines, at)
                && is_dated(&lines[at..at + length])
                && !followed_by_quote(lines, at + length)
            {
                return Some(at);
            }
        }
        own_text = true;
    }
    None
}

/// A line of underscores above a header block belongs to it.
fn before_rule(lines: &[&str], at: usize) -> usize {
    let previous = (0..at).rev().find(|index| !is_blank(lines[*index]));
    match previous {
        Some(index)
            if lines[index].trim().len() >= 8 && lines[index].trim().chars().all(|c| matches!(c, '_' | '-')) =>
        {
            index
        }
        _ => at,
    }
}

/// Three of From, Sent, To, Subject on consecutive lines, From first.
fn is_header_block(lines: &[&str], at: usize) -> bool {
    if block_label(lines[at]) != Some(0) {
        return false;
    }
    let mut seen = [true, false, false, false];
    let window = lines[at + 1..].iter().filter(|line| !is_blank(line)).take(5);
    for line in window {
        match block_label(line) {
            Some(kind) => seen[kind] = true,
            // A long recipient list wraps.
            None if line.contains('@') => {}
            None => break,
        }
    }
    seen.iter().filter(|seen| **seen).count() >= 3
}

/// Lines an attribution may wrap over, and the most characters it has.
const ATTRIBUTION_LINES_MAX: usize = 4;
const ATTRIBUTION_CHARS_MAX: usize = 400;

/// Returns over how many lines an attribution starts at `at`, if one does.
fn attribution(lines: &[&str], at: usize) -> Option<usize> {
    let mut joined = String::new();
    for length in 1..=ATTRIBUTION_LINES_MAX {
        let line = lines.get(at + length - 1)?;
        if is_blank(line) || is_quoted(line) {
            return None;
        }
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(line.trim());
        if joined.chars().count() > ATTRIBUTION_CHARS_MAX {
            return None;
        }
        if is_attribution(&joined) {
            return Some(length);
        }
    }
    None
}

fn is_attribution(text: &str) -> bool {
    let Some(text) = text.trim_end().strip_suffix([':', '：']) else {
        return false;
    };
    let lower = text.trim_matches(|c: char| c.is_whitespace() || c == '*').to_lowercase();
    // A person or a moment is named: without either this is an ordinary sentence.
    if !lower.contains(['@', '<']) && !lower.chars().any(|c| c.is_numeric()) {
        return false;
    }
    ATTRIBUTIONS.iter().any(|rule| {
        let starts = rule.starts.is_empty() || rule.starts.iter().any(|start| lower.starts_with(start));
        starts
            && rule.verbs.iter().any(|verb| match lower.rfind(verb) {
                // The verb is last, or only a name follows it ("schrieb Erika Muster").
                Some(found) => lower[found + verb.len()..].chars().count() <= 100,
                None => false,
            })
    })
}

fn is_dated(lines: &[&str]) -> bool {
    lines.iter().flat_map(|line| line.chars()).filter(|c| c.is_ascii_digit()).count() >= 4
}

fn followed_by_quote(lines: &[&str], from: usize) -> bool {
    lines[from..].iter().find(|line| !is_blank(line)).is_some_and(|line| is_quoted(line))
}

/// A run of `>` lines and the attribution above it.
struct Block {
    /// First line, the attribution included.
    start: usize,
    /// First quoted line.
    quote: usize,
    /// First line behind.
    end: usize,
}

fn strip_blocks(lines: &[&str], keep: &mut [bool]) {
    let blocks = blocks(lines, keep);
    let Some(last) = blocks.last() else { return };
    let own_after = |block: &Block| (block.end..lines.len()).any(|at| keep[at] && !is_blank(lines[at]));
    let own_before = |block: &Block| (0..block.start).any(|at| keep[at] && !is_blank(lines[at]));
    let last_is_trailing = !own_after(last);
    let answered = &blocks[..blocks.len() - usize::from(last_is_trailing)];
    // One quote that is introduced, or that opens the message, is answered below as a whole. Several, or one in the
    // middle, are answered point by point: then the points are needed to understand the answers.
    let strip_answered = matches!(answered, [only] if only.start < only.quote || !own_before(only));
    let mut remove: Vec<(usize, usize)> = Vec::new();
    if last_is_trailing {
        remove.push((last.start, last.end));
    }
    if strip_answered {
        remove.extend(answered.iter().map(|block| (block.start, block.end)));
    }
    for (start, end) in remove {
        keep[start..end].fill(false);
    }
}

fn blocks(lines: &[&str], keep: &[bool]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if !keep[at] || !is_quoted(lines[at]) {
            at += 1;
            continue;
        }
        let quote = at;
        let mut end = at + 1;
        let mut ahead = end;
        // Empty lines between quoted lines belong to the quote.
        while ahead < lines.len() && keep[ahead] && (is_quoted(lines[ahead]) || is_blank(lines[ahead])) {
            ahead += 1;
            if is_quoted(lines[ahead - 1]) {
                end = ahead;
            }
        }
        let floor = blocks.last().map_or(0, |block| block.end);
        blocks.push(Block { start: attribution_above(lines, quote, floor), quote, end });
        at = end;
    }
    blocks
}

/// Returns where the attribution of a quote starts, or the quote itself.
fn attribution_above(lines: &[&str], quote: usize, floor: usize) -> usize {
    let Some(last) = (floor..quote).rev().find(|at| !is_blank(lines[*at])) else {
        return quote;
    };
    for length in 1..=ATTRIBUTION_LINES_MAX {
        let Some(start) = (last + 1).checked_sub(length).filter(|start| *start >= floor) else {
            break;
        };
        if attribution(lines, start) == Some(length) {
            return start;
        }
    }
    quote
}
