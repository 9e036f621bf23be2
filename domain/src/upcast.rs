//! Older stored shapes to the newest one, so that consumers know only the newest.

/// One step: a stored name, the version it was written with, and what makes the facts those of the next version.
type Step = (&'static str, i64, fn(&str) -> Result<String, serde_json::Error>);

/// Every superseded (name, version) that was ever written. Steps are added and never edited.
const STEPS: &[Step] = &[
    // Version 2 names the domain, where it is known.
    ("mailbox.closed", 1, |facts| Ok(facts.to_owned())),
];

/// Returns the newest version and facts of a stored event, or `None` when it is the newest already.
///
/// # Errors
/// The old JSON is not what its version promises.
pub fn newest(name: &str, version: i64, facts: &str) -> Result<Option<(i64, String)>, serde_json::Error> {
    upcast(STEPS, name, version, facts)
}

fn upcast(
    steps: &[Step],
    name: &str,
    mut version: i64,
    facts: &str,
) -> Result<Option<(i64, String)>, serde_json::Error> {
    let mut newest = None;
    while let Some((_, _, step)) = steps.iter().find(|(n, v, _)| *n == name && *v == version) {
        let next = step(newest.as_deref().unwrap_or(facts))?;
        version += 1;
        newest = Some(next);
    }
    Ok(newest.map(|facts| (version, facts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_one_another_to_the_newest_shape() {
        let steps: &[Step] = &[
            ("a.b", 1, |facts| Ok(facts.replace('1', "2"))),
            ("a.b", 2, |facts| Ok(facts.replace('2', "3"))),
            ("c.d", 1, |facts| Ok(facts.to_owned())),
        ];
        assert_eq!(upcast(steps, "a.b", 1, "1").unwrap(), Some((3, "3".to_owned())));
        assert_eq!(upcast(steps, "a.b", 2, "2").unwrap(), Some((3, "3".to_owned())));
        assert_eq!(upcast(steps, "a.b", 3, "3").unwrap(), None);
        assert_eq!(upcast(steps, "x.y", 1, "1").unwrap(), None);
    }
}
