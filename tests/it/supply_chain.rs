//! What is in the tree, and from where: the rules of `deny.toml`, applied offline to the lock file, and known faults.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use semver::{Version, VersionReq};
use serde_json::Value;
use toml::Table;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn table(file: &str) -> Table {
    std::fs::read_to_string(root().join(file)).unwrap().parse().unwrap()
}

/// Returns every package that any feature of any of our crates draws in, ours included.
fn packages() -> Vec<Value> {
    let arguments = ["metadata", "--format-version=1", "--all-features", "--locked", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let used: Vec<_> = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect();
    let all = metadata["packages"].as_array().unwrap().iter();
    let packages: Vec<_> = all.filter(|package| used.contains(&&package["id"])).cloned().collect();
    assert!(packages.len() > 200, "only {} packages", packages.len());
    packages
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn strings(value: Option<&toml::Value>) -> Vec<String> {
    let list = value.and_then(toml::Value::as_array).into_iter().flatten();
    list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Returns whether a licence expression is satisfied by allowed licences alone (SPDX: `OR`, `AND`, parentheses, and the `/`
/// of old manifests).
fn is_licensed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = either(words, at, allowed);
        *at += usize::from(words.get(*at) == Some(&")"));
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed(&format!("{word} WITH {exception}")) || allowed(word);
    }
    allowed(word)
}

#[test]
fn every_crate_has_a_licence_that_is_allowed() {
    let rules = table("deny.toml");
    let licences = rules["licenses"].as_table().unwrap();
    let allowed = strings(licences.get("allow"));
    let exceptions: BTreeMap<String, Vec<String>> = licences
        .get("exceptions")
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .map(|exception| {
            let name = exception.get("crate").or(exception.get("name")).unwrap().as_str().unwrap().to_owned();
            (name, strings(exception.get("allow")))
        })
        .collect();
    let mut refused = vec![];
    for package in packages() {
        let name = text(&package, "name");
        let more = exceptions.get(name).cloned().unwrap_or_default();
        let is_allowed = |licence: &str| allowed.iter().chain(&more).any(|known| known == licence);
        if !is_licensed(text(&package, "license"), &is_allowed) {
            refused.push(format!("{name}: {:?}", text(&package, "license")));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    // The reader of expressions can say no.
    let mit = |licence: &str| licence == "MIT";
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR X) AND (Y OR Z)", false),
        ("Apache-2.0/MIT", true),
        ("", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
    ] {
        assert_eq!(is_licensed(expression, &mit), met, "{expression}");
    }
}

#[test]
fn every_crate_comes_from_the_registry_or_from_here_and_none_is_banned() {
    let rules = table("deny.toml");
    let banned = rules["bans"]["deny"].as_array().unwrap();
    let banned: Vec<_> = banned.iter().map(|ban| ban["name"].as_str().unwrap()).collect();
    for package in packages() {
        let name = text(&package, "name");
        let source = package["source"].as_str();
        assert!(source.is_none_or(|source| source == REGISTRY), "{name} comes from {source:?}");
        assert!(!banned.contains(&name), "{name} is banned");
        if source.is_none() {
            for dependency in package["dependencies"].as_array().unwrap() {
                let wanted = text(dependency, "name");
                let here = dependency["path"].is_string();
                assert!(here || text(dependency, "req") != "*", "{name} takes any {wanted}");
                // Patterns over what strangers send are written out: no engine whose cost they could choose.
                let engines = ["regex", "fancy-regex", "pcre2", "onig"];
                assert!(!engines.contains(&wanted), "{name} depends on {wanted}");
            }
            let manifest = std::fs::read_to_string(text(&package, "manifest_path")).unwrap();
            assert!(manifest.contains("[lints]\nworkspace = true"), "{name} is not under the house's lints");
        }
    }
    assert_eq!(table("Cargo.toml")["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let (from_registry, pinned) = (lock.matches(REGISTRY).count(), lock.matches("checksum = ").count());
    assert_eq!(from_registry, pinned, "a crate without a checksum");
}

#[test]
fn no_build_script_speaks_to_the_network() {
    let words =
        ["TcpStream", "ureq::", "reqwest::", "attohttpc", "Command::new(\"curl", "Command::new(\"wget", "git2::"];
    let mut looked_at = 0;
    for package in packages() {
        let targets = package["targets"].as_array().unwrap();
        for target in targets.iter().filter(|target| target["kind"][0] == "custom-build") {
            // Crates of other systems are in the lock file and not on this machine.
            let Ok(script) = std::fs::read_to_string(text(target, "src_path")) else { continue };
            looked_at += 1;
            for word in words {
                assert!(!script.contains(word), "the build script of {} says {word}", text(&package, "name"));
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} build scripts were found");
}

/// A known fault.
struct Advisory {
    id: String,
    name: String,
    patched: Vec<String>,
    unaffected: Vec<String>,
}

impl Advisory {
    fn affects(&self, version: &Version) -> bool {
        let meets = |requirement: &String| VersionReq::parse(requirement).is_ok_and(|req| req.matches(version));
        !self.patched.iter().chain(&self.unaffected).any(meets)
    }
}

/// Returns the advisories that are kept here, with the day they were taken.
fn kept() -> (String, Vec<Advisory>) {
    let kept = table("tests/advisories.toml");
    let taken = kept["taken"].as_str().unwrap().to_owned();
    let one = |entry: &toml::Value| Advisory {
        id: entry["id"].as_str().unwrap().to_owned(),
        name: entry["crate"].as_str().unwrap().to_owned(),
        patched: strings(entry.get("patched")),
        unaffected: strings(entry.get("unaffected")),
    };
    (taken, kept["advisory"].as_array().unwrap().iter().map(one).collect())
}

/// Returns those of a checkout of the database, with the date of the newest. Withdrawn ones are left out.
fn checkout(directory: &Path) -> (String, Vec<Advisory>) {
    let (mut newest, mut advisories) = (String::new(), vec![]);
    for krate in std::fs::read_dir(directory.join("crates")).unwrap() {
        for file in std::fs::read_dir(krate.unwrap().path()).unwrap() {
            let content = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let Some(front) = content.strip_prefix("```toml").and_then(|rest| rest.split("```").next()) else {
                continue;
            };
            let front: Table = front.parse().unwrap();
            let (about, versions) = (&front["advisory"], front.get("versions"));
            if about.get("withdrawn").is_some() {
                continue;
            }
            newest = newest.max(about["date"].as_str().unwrap().to_owned());
            advisories.push(Advisory {
                id: about["id"].as_str().unwrap().to_owned(),
                name: about["package"].as_str().unwrap().to_owned(),
                patched: strings(versions.and_then(|versions| versions.get("patched"))),
                unaffected: strings(versions.and_then(|versions| versions.get("unaffected"))),
            });
        }
    }
    (newest, advisories)
}

#[test]
fn no_crate_has_a_known_fault_that_is_not_accounted_for() {
    let database = std::env::var_os("POSTLOG_ADVISORY_DB");
    let (taken, advisories) = database.map_or_else(kept, |directory| checkout(Path::new(&directory)));
    let rules = table("deny.toml");
    let ignored = rules["advisories"]["ignore"].as_array().unwrap();
    for entry in ignored {
        assert!(
            entry["reason"].as_str().is_some_and(|reason| reason.len() > 20),
            "{entry} is ignored without a reason"
        );
    }
    let is_ignored = |id: &str| ignored.iter().any(|entry| entry["id"].as_str() == Some(id));
    let packages = packages();
    let (mut affected, mut about_us) = (vec![], 0);
    for advisory in &advisories {
        for package in packages.iter().filter(|package| text(package, "name") == advisory.name) {
            about_us += 1;
            let version: Version = text(package, "version").parse().unwrap();
            if advisory.affects(&version) && !is_ignored(&advisory.id) {
                affected.push(format!("{} {version}: {}", advisory.name, advisory.id));
            }
        }
    }
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let age = today.since(taken.parse::<jiff::civil::Date>().unwrap()).unwrap().get_days();
    let summary =
        format!("{} advisories of {taken} ({age} days old), {about_us} about crates of this tree", advisories.len());
    assert!(affected.is_empty(), "{summary}: {affected:#?}");
    assert!(about_us >= 10, "{summary}: that is no check");
    // A version of before a fix is noticed.
    let fixed = advisories.iter().find(|advisory| advisory.id == "RUSTSEC-2025-0055").unwrap();
    assert!(fixed.affects(&Version::new(0, 3, 19)) && !fixed.affects(&Version::new(0, 3, 20)));
    write_report(&summary, &packages);
}

/// Leaves what was found, and a bill of materials (CycloneDX 1.5), where a pipeline can pick them up.
fn write_report(summary: &str, packages: &[Value]) {
    let components: Vec<_> = packages
        .iter()
        .filter(|package| package["source"].is_string())
        .map(|package| {
            let (name, version) = (text(package, "name"), text(package, "version"));
            serde_json::json!({
                "type": "library", "name": name, "version": version, "purl": format!("pkg:cargo/{name}@{version}"),
                "licenses": [{"expression": text(package, "license").replace('/', " OR ")}],
            })
        })
        .collect();
    let bill = serde_json::json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "name": "postlog", "version": env!("CARGO_PKG_VERSION")}},
        "components": components,
    });
    let directory = root().join("target/supply-chain");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("sbom.cdx.json"), serde_json::to_string_pretty(&bill).unwrap()).unwrap();
    std::fs::write(directory.join("advisories.txt"), format!("{summary}\n")).unwrap();
}
