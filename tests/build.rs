//! Wraps the promised SWIM snippet in a function, so that a test can run it where it may bind its port.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let snippet = "promises/swim.rs";
    println!("cargo::rerun-if-changed={snippet}");
    let body = fs::read_to_string(snippet)?;
    let wrapped = format!(
        "/// The promised SWIM snippet, to the letter; the node it starts is dropped at the end.\n\
         ///\n/// # Errors\n/// Whatever the snippet runs into.\n\
         #[allow(unused_variables, reason = \"the snippet is kept to the letter\")]\n\
         pub async fn swim_snippet() -> SnippetResult {{\n{body}\nOk(())\n}}\n"
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("promised_swim.rs"), wrapped)?;
    Ok(())
}
