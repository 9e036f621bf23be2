//! Older stored shapes to the newest one, so that consumers know only the newest.
//!
//! One arm per (type, version) that was ever written and is not the newest any more.

/// Returns the newest version and facts of a stored event, or `None` when it is the newest already.
///
/// # Errors
/// The old JSON is not what its version promises.
pub fn newest(name: &str, version: i64, facts: &str) -> Result<Option<(i64, String)>, serde_json::Error> {
    let _ = facts;
    match (name, version) {
        // Nothing has been superseded yet. Example of an arm:
        // ("mailbox.opened", 1) => { let mut v: Value = from_str(facts)?; v["quota_bytes"] = ...; Ok(Some((2, v.to_string()))) }
        _ => Ok(None),
    }
}
