//! Runs one seed of the simulation in a process of its own, and prints a line about it.
//!
//! `cargo xtask sim` starts one of these for every seed: whatever a process remembers, such as the seeds of
//! its hash maps, is then the same for a seed alone and for a seed among many.
#![expect(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod entropy;

use std::{
    fs::File,
    io::{BufWriter, Write},
    process::ExitCode,
    sync::Mutex,
};

use rivven_tests::sim::{
    run::{Plan, Report, run},
    scenario,
};

/// What panicked, wherever it was caught.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if_eq("list").is_some() {
        for script in scenario::SCRIPTS {
            println!("{}", script.name);
        }
        return ExitCode::SUCCESS;
    }
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(seed), Some(seconds), Some(nodes)) = (number(), number(), number()) else {
        eprintln!(
            "usage: rivven-sim SEED SECONDS NODES SCRIPT|- [TRACE]; `cargo xtask sim` is the way to run it"
        );
        return ExitCode::from(2);
    };
    let script = match words.next().as_deref() {
        None | Some("-") => None,
        Some(name) => match scenario::named(name) {
            Some(script) => Some(script),
            None => {
                let names: Vec<_> = scenario::SCRIPTS.iter().map(|script| script.name).collect();
                eprintln!("there is no script `{name}`; there are {}", names.join(", "));
                return ExitCode::from(2);
            }
        },
    };
    let plan = Plan {
        seed,
        seconds,
        nodes,
        script,
    };
    match simulate(plan, words.next()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn simulate(plan: Plan, trace: Option<String>) -> std::io::Result<bool> {
    let out = match trace {
        None => None,
        Some(path) => Some(Box::new(BufWriter::new(File::create(path)?)) as Box<dyn Write + Send>),
    };
    let root = tempfile::TempDir::new_in(scratch())?;
    std::panic::set_hook(Box::new(|panic| {
        PANICS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(panic.to_string());
    }));
    entropy::take_over(plan.seed);
    // A thread draws its hash seeds when it first needs some: this one has not yet.
    let path = root.path().to_path_buf();
    let seed = plan.seed;
    let thread = std::thread::Builder::new()
        .name("simulation".into())
        .spawn(move || run(&plan, &path, out))?;
    let report = thread
        .join()
        .map_err(|_| std::io::Error::other("the simulation panicked"))??;
    let panics = PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(print(seed, &report, &panics))
}

/// Where small files go: memory, if there is a place for that.
fn scratch() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() {
        memory.into()
    } else {
        std::env::temp_dir()
    }
}

fn print(seed: u64, report: &Report, panics: &[String]) -> bool {
    let violations = report.violations.len() + panics.len();
    let Report {
        hash, events, ops, ..
    } = report;
    println!("seed {seed} hash {hash:016x} events {events} ops {ops} violations {violations}");
    // Apart from the line: for whoever sums up many seeds.
    let counts = report.counts().into_iter();
    let counts: String = counts.map(|(name, count)| format!(" {name} {count}")).collect();
    eprintln!("counts{counts}");
    for violation in &report.violations {
        println!("    {violation}");
    }
    for panic in panics {
        println!("    {panic}");
    }
    violations == 0
}
