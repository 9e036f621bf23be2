//! `cargo run -p proof [--release] -- [change|large] [part ...] [bound=value ...]`: explores the model and prints what
//! there is.
#![expect(clippy::print_stdout, reason = "this is a command")]

use std::process::ExitCode;

use proof::parts::{self, Level};

fn main() -> ExitCode {
    let (settings, mut names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.contains('='));
    let level = if names.iter().any(|name| name == "large") { Level::Large } else { Level::Change };
    names.retain(|name| name != "large" && name != "change");
    let mut is_well = true;
    for mut part in
        parts::all(level).into_iter().filter(|part| names.is_empty() || names.iter().any(|n| n == part.name))
    {
        for setting in &settings {
            if let Err(problem) = part.bounds.set(setting) {
                println!("{problem}");
                return ExitCode::FAILURE;
            }
        }
        let explored = part.explore();
        println!("{explored}");
        for problem in &explored.problems {
            is_well = false;
            println!("  {problem}");
        }
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
