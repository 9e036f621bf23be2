use super::*;

fn settings(fsync: &str, pages: &str, commit: &str) -> Vec<(String, String)> {
    [("fsync", fsync), ("full_page_writes", pages), ("synchronous_commit", commit), ("server_encoding", "UTF8")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn every_setting_that_can_lose_events_is_named() {
    for commit in ["on", "local", "remote_write", "remote_apply"] {
        assert_eq!(problems(&settings("on", "on", commit)), Vec::<String>::new());
    }
    let all = problems(&settings("off", "off", "off"));
    assert_eq!(all.len(), 3);
    assert!(all[0].starts_with("fsync") && all[1].starts_with("full_page") && all[2].starts_with("synchronous"));
}

#[test]
fn the_password_is_not_shown() {
    let shown = format!("{:?}", Config::new("postgres://u:secret@localhost/x"));
    assert!(!shown.contains("secret"));
}
