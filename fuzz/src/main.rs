//! Built by `fuzz/run`: libFuzzer around the target that `POSTLOG_FUZZ_TARGET` names. Built without it: runs inputs once each,
//! `cargo run -p fuzz -- <target> <file>...`.
#![cfg_attr(libfuzzer, no_main)]

#[cfg(libfuzzer)]
mod fuzzer {
    use std::sync::LazyLock;

    use libfuzzer_sys::fuzz_target;

    static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
        let name = std::env::var("POSTLOG_FUZZ_TARGET").unwrap_or_default();
        fuzz::target(&name).unwrap_or_else(|| panic!("POSTLOG_FUZZ_TARGET={name} names no target"))
    });

    fuzz_target!(|data: &[u8]| (TARGET.run)(data));
}

#[cfg(not(libfuzzer))]
fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
    let target = fuzz::target(&name).ok_or_else(|| format!("name one of {names:?}, then files"))?;
    for file in arguments {
        let input = std::fs::read(&file).map_err(|e| format!("{file}: {e}"))?;
        (target.run)(&input);
    }
    Ok(())
}
