//! Tells the compiler that `--cfg libfuzzer` is a word it may meet.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(libfuzzer)");
    println!("cargo::rerun-if-changed=build.rs");
}
