//! The `rivven-node` binary.

fn main() -> std::process::ExitCode {
    rivven_node::cli::main()
}
