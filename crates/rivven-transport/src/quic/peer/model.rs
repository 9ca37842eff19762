//! A model of both ends of a pair: everything that can happen between two nodes, in random orders.
//!
//! The choosing is that of [`Peer`] itself; what is modelled is what its drivers do for it: the hellos, the
//! control stream, and packets that come late or never. Each run draws its steps from a seed, which a
//! failure prints; `run(seed, Mix, Plant)` repeats it.

mod world;

use world::{End, Fault, World};

/// Runs of each mix.
const RUNS: usize = 4_000;

/// Steps of a run before it is left in peace.
const STEPS: usize = 120;

/// Most connections that are made once nothing more happens to either node: one that each end has begun to
/// dial, and one for each that was wanted because of what it was told by then.
const MAX_AFTERMATH: usize = 6;

/// What happens to the nodes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mix {
    /// Calls, and certificates that change.
    Peaceful,
    /// Also packets that are lost, and nodes that are killed, shut down, and started again.
    Rough,
}

/// A mistake for the model to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// One end takes itself for the node with the lower id, as the other one does.
    Tie,
    /// Hellos do not name what their sender has seen.
    Forgetful,
    /// Go away is heard, and the connection used on.
    Deaf,
    /// A connection that was admitted for an earlier start is offered as one of the latest.
    Late,
}

/// What a run came to, for tests that want to know whether anything happened in it.
#[derive(Default)]
struct Tally {
    connections: usize,
    crossed: usize,
    answered: usize,
}

/// One run: random steps, then peace, then the properties of a pair that has come to rest.
fn run(seed: u64, mix: Mix, plant: Plant) -> Result<Tally, String> {
    let mut world = World::new(seed, plant);
    for _ in 0..STEPS {
        let faults: &[Fault] = match mix {
            Mix::Peaceful => &[Fault::Call, Fault::Rotate],
            Mix::Rough => &Fault::ALL,
        };
        world.step(faults)?;
    }
    world.start_those_that_were_shut_down();
    let before = world.connections();
    world.rest()?;
    if End::BOTH.iter().all(|end| world.used_by(*end).is_none()) {
        // Without losses nothing takes the last connection away.
        if mix == Mix::Peaceful && before > 0 {
            return Err("both ends have left every connection".into());
        }
        // Nobody wanted one. The next call brings one for both.
        world.call(End::BOTH[usize::from(seed.is_multiple_of(2))]);
        world.rest()?;
    }
    let made = world.connections() - before;
    if made > MAX_AFTERMATH {
        return Err(format!("{made} connections were made after everything was over"));
    }
    world.check_rest()?;
    if mix == Mix::Peaceful && world.failed > 0 {
        return Err(format!("{} calls failed though nothing was lost", world.failed));
    }
    Ok(Tally {
        connections: world.connections(),
        crossed: world.crossed,
        answered: world.answered,
    })
}

fn check(mix: Mix) -> Tally {
    let mut all = Tally::default();
    for seed in 0..RUNS as u64 {
        match run(seed, mix, Plant::Nothing) {
            Ok(tally) => {
                all.connections += tally.connections;
                all.crossed += tally.crossed;
                all.answered += tally.answered;
            }
            Err(error) => panic!("run({seed}, Mix::{mix:?}, Plant::Nothing): {error}"),
        }
    }
    all
}

#[test]
fn two_nodes_that_call_and_rotate_at_will_end_with_one_connection_and_no_failed_call() {
    let all = check(Mix::Peaceful);
    assert!(all.connections > 3 * RUNS, "{}", all.connections);
    assert!(all.crossed > RUNS / 10, "{}", all.crossed);
    assert!(all.answered > RUNS, "{}", all.answered);
}

#[test]
fn losses_and_restarts_leave_one_connection_between_the_newest_starts() {
    let all = check(Mix::Rough);
    assert!(all.connections > 3 * RUNS, "{}", all.connections);
    assert!(all.crossed > RUNS / 10, "{}", all.crossed);
}

#[test]
fn planted_mistakes_are_found() {
    for (mix, plant, symptom) in [
        (Mix::Peaceful, Plant::Tie, "have left every connection"),
        (Mix::Peaceful, Plant::Forgetful, "after everything was over"),
        (Mix::Peaceful, Plant::Deaf, "said go away"),
        (Mix::Rough, Plant::Late, "but knows"),
    ] {
        let errors: Vec<_> = (0..RUNS as u64 / 4)
            .filter_map(|seed| run(seed, mix, plant).err())
            .collect();
        assert!(
            errors.iter().any(|error| error.contains(symptom)),
            "{plant:?}: {errors:?}"
        );
    }
}
