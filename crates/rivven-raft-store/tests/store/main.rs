//! The log stores and the snapshot store, seen from outside.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_files;
#[cfg(test)]
mod group_commit;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod model;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod receive;
#[cfg(test)]
mod reopen;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod support;
