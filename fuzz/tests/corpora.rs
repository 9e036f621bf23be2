//! Every kept input, once, and cut short: what was found stays found. Then inputs made of them by changing, cutting and joining,
//! a few of them on every change; `POSTLOG_FUZZ_RUNS` sets how many, `POSTLOG_FUZZ_SEED` which. `fuzz/run` looks further.

use std::path::Path;

fn inputs(target: &str) -> Vec<std::path::PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Inputs made of kept ones. The same seed makes the same inputs.
struct Changes {
    state: u64,
}

/// Octets that mean something to some parser.
const TELLING: &[u8] = b"\r\n\0 \t.,:;<>()[]{}\"'\\/@=&%#?!-_*+|~^$`0189aAzZ\x7f\x80\xbf\xc0\xe2\xff";

impl Changes {
    fn number(&mut self, below: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    fn octet(&mut self) -> u8 {
        match self.number(3) {
            0 => u8::try_from(self.number(256)).unwrap_or(0),
            _ => TELLING[self.number(TELLING.len())],
        }
    }

    fn range(&mut self, of: &[u8]) -> std::ops::Range<usize> {
        let start = self.number(of.len() + 1);
        start..start + self.number((of.len() - start).min(64) + 1)
    }

    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.number(corpus.len())].clone();
        for _ in 0..=self.number(4) {
            let range = self.range(&input);
            let at = range.start;
            match self.number(6) {
                0 => drop(input.drain(range)),
                1 => input.insert(at, self.octet()),
                2 if at < input.len() => input[at] = self.octet(),
                3 => {
                    let copy = input[range].to_vec();
                    let to = self.number(input.len() + 1);
                    input.splice(to..to, copy);
                }
                4 => {
                    let other = &corpus[self.number(corpus.len())];
                    let piece = other[self.range(other)].to_vec();
                    input.splice(at..at, piece);
                }
                _ => input.truncate(at.max(1)),
            }
        }
        input.truncate(16 * 1024);
        input
    }
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs one target over inputs that are made of its corpus; one that fails is kept where it can be run again.
fn run_changed(name: &str, target: fuzz::Target, corpus: &[Vec<u8>]) {
    let (runs, seed) = (variable("POSTLOG_FUZZ_RUNS", 300), variable("POSTLOG_FUZZ_SEED", 1));
    for run in 0..runs {
        let input = Changes { state: seed.wrapping_mul(1_000_003).wrapping_add(run) }.input(corpus);
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}-{run}"));
            std::fs::write(&file, &input).expect("the input can be kept");
            panic!("cargo run -p fuzz -- {name} {}", file.display());
        }
    }
}

/// Runs one target over its corpus, and over each input cut short, which is where parsers look for what is not there.
fn run(name: &str) {
    let target = fuzz::target(name).unwrap_or_else(|| panic!("no target {name}"));
    let files = inputs(name);
    assert!(files.len() >= 5, "{name} has only {} inputs", files.len());
    (target.run)(b"");
    let mut corpus = vec![];
    for file in files {
        let input = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(input.len() <= 64 * 1024, "{} is too large to keep", file.display());
        let result = std::panic::catch_unwind(|| {
            (target.run)(&input);
            (target.run)(&input[..input.len() / 2]);
        });
        assert!(result.is_ok(), "cargo run -p fuzz -- {name} {}", file.display());
        corpus.push(input);
    }
    run_changed(name, target, &corpus);
}

macro_rules! corpora {
    ($($(#[$attribute:meta])? $name:ident)*) => {
        $($(#[$attribute])? #[test] fn $name() { run(stringify!($name)); })*
    };
}

corpora! {
    smtp_server smtp_data smtp_client mime returned html signatures submission address webhook_url
    #[cfg(feature = "doors")] json_bodies
    #[cfg(feature = "doors")] cursors
    #[cfg(feature = "doors")] last_event_id
}
