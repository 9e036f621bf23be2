//! Every kept input, once: what was found stays found.

use std::path::Path;

fn inputs(target: &str) -> Vec<std::path::PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Runs one target over its corpus, and over each input cut short, which is where parsers look for what is not there.
fn run(name: &str) {
    let target = fuzz::target(name).unwrap_or_else(|| panic!("no target {name}"));
    let files = inputs(name);
    assert!(files.len() >= 5, "{name} has only {} inputs", files.len());
    (target.run)(b"");
    for file in files {
        let input = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(input.len() <= 64 * 1024, "{} is too large to keep", file.display());
        let result = std::panic::catch_unwind(|| {
            (target.run)(&input);
            (target.run)(&input[..input.len() / 2]);
        });
        assert!(result.is_ok(), "cargo run -p fuzz -- {name} {}", file.display());
    }
}

macro_rules! corpora {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_target_has_its_test() {
            let tested = [$(stringify!($name)),*];
            let targets: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tested.as_slice(), targets);
        }
    };
}

corpora! {
    smtp_server smtp_data smtp_client mime returned html signatures submission address webhook_url
    json_bodies cursors last_event_id
}
