//! `rivven-node demo`: a real cluster of three processes, watched while its leader is killed.

mod screen;
mod story;

use crate::{
    cli::{Failure, Output, block_on},
    harness::{Harness, HarnessOptions},
    signal,
};

use self::screen::Screen;

/// Tells the story. On a terminal the cluster then stays up until Ctrl-C.
pub(crate) fn run(keep: bool, out: &mut Output) -> Result<(), Failure> {
    let binary = std::env::current_exe()?;
    let mut options = HarnessOptions::new(binary);
    options.keep = keep;
    let mut screen = Screen::new(out);
    block_on(async {
        let mut stop = signal::Stop::listen()?;
        stop.watch_terminal()?;
        let started = Harness::start(options).map_err(|error| Failure::other(&error));
        let mut harness = started?;
        let told = tokio::select! {
            biased;
            cause = stop.requested() => {
                return Err(Failure::world("interrupted", format_args!("interrupted by {cause}")));
            }
            told = story::tell(&mut harness, &mut screen) => told,
        };
        if let Err(error) = told {
            screen.abandon(&harness.log_tails());
            return Err(Failure::other(&error));
        }
        if screen.is_terminal() {
            screen.invite(&harness);
            stop.requested().await;
        }
        let stopped = harness.stop_all().await;
        stopped.map_err(|error| Failure::other(&error))?;
        if keep {
            screen.say(format_args!("left behind: {}", harness.dir().display()));
        }
        screen.say("demo passed: every node stopped cleanly");
        Ok(())
    })
}
