//! Who may choose cryptography: no manifest but that of rivven-crypto enables a crypto feature.

use cargo_metadata::Package;

use super::Finding;

/// The crate that chooses, and does so only under its own features.
const OWNER: &str = "rivven-crypto";

/// Libraries with features that choose cryptography.
const LIBRARIES: [&str; 7] = [
    "quinn",
    "quinn-proto",
    "rcgen",
    "rustls",
    "rustls-webpki",
    "tokio-rustls",
    "x509-parser",
];

/// Such features, by any library's name for them.
const CHOOSING: [&str; 13] = [
    "aws-lc-rs",
    "aws-lc-rs-fips",
    "aws_lc_rs",
    "aws_lc_rs_unstable",
    "crypto",
    "fips",
    "ring",
    "rustls",
    "rustls-aws-lc-rs",
    "rustls-aws-lc-rs-fips",
    "rustls-ring",
    "verify",
    "verify-aws",
];

/// Checks what `package` asks of the libraries that can be told which cryptography to use.
pub(super) fn check(package: &Package) -> Vec<Finding> {
    let asked = package
        .dependencies
        .iter()
        .filter(|dep| LIBRARIES.contains(&dep.name.as_str()));
    let asked = asked.flat_map(|dep| {
        let default = dep.uses_default_features.then_some("default");
        let features = dep.features.iter().map(String::as_str).chain(default);
        features.map(|feature| (dep.name.as_str(), feature))
    });
    let passed_on = package.features.values().flatten();
    let passed_on = passed_on.filter_map(|feature| feature.split_once('/'));
    let passed_on = passed_on.map(|(library, feature)| (library.trim_end_matches('?'), feature));
    let mut findings: Vec<_> = asked.filter_map(|one| chooses(&package.name, one)).collect();
    if package.name.as_str() != OWNER {
        findings.extend(passed_on.filter_map(|one| chooses(&package.name, one)));
    }
    findings
}

/// What is wrong with `package` enabling `feature` of `library`.
fn chooses(package: &str, (library, feature): (&str, &str)) -> Option<Finding> {
    let chooses = LIBRARIES.contains(&library) && (feature == "default" || CHOOSING.contains(&feature));
    chooses.then(|| {
        Finding::fatal(format!(
            "{package} enables `{feature}` of {library}: only {OWNER} chooses cryptography, under features of \
             its own; take a `Provider` value"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_cryptography_is_found_and_nothing_else_is() {
        for (library, feature, found) in [
            ("quinn", "rustls-ring", true),
            ("rustls", "aws_lc_rs", true),
            ("rustls", "default", true),
            ("rcgen", "crypto", true),
            ("quinn", "runtime-tokio", false),
            ("rivven-crypto", "crypto-ring", false),
            ("tokio", "default", false),
        ] {
            assert_eq!(
                chooses("x", (library, feature)).is_some(),
                found,
                "{library}/{feature}"
            );
        }
    }
}
