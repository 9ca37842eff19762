//! The rivven-node binary, and the harness that runs it as real processes.
