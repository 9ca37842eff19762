//! The operating system's randomness, taken over: in this program it comes from a seed.
//!
//! The standard library asks `getrandom` of the C library for the seeds of its hash maps, and lets a program
//! define that function itself. tokio draws the order of some of its doings from such a seed.

use std::{
    fs::File,
    io::Read,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

static TAKEN: AtomicBool = AtomicBool::new(false);
static STATE: AtomicU64 = AtomicU64::new(0);

/// From this call on the process gets numbers that follow from `seed`.
pub(crate) fn take_over(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
    TAKEN.store(true, Ordering::SeqCst);
}

fn fill(out: &mut [u8]) -> bool {
    if !TAKEN.load(Ordering::SeqCst) {
        return File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(out))
            .is_ok();
    }
    for chunk in out.chunks_mut(8) {
        // SplitMix64.
        let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bytes = (z ^ (z >> 31)).to_le_bytes();
        chunk
            .iter_mut()
            .zip(bytes)
            .for_each(|(place, byte)| *place = byte);
    }
    true
}

/// Stands in for the function of this name in the C library, with its contract but for the flags.
///
/// # Safety
/// `out` must be valid for writes of `len` bytes.
#[expect(
    unsafe_code,
    reason = "the one hook that a reproducible simulation needs (design D9)"
)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(out: *mut u8, len: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise is that of the C function; bytes may hold any value.
    let out = unsafe { std::slice::from_raw_parts_mut(out, len) };
    if fill(out) { len.cast_signed() } else { -1 }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    #[test]
    fn hash_maps_are_seeded_by_the_seed() {
        let drawn = |seed| {
            super::take_over(seed);
            let draw = || std::collections::hash_map::RandomState::new().hash_one(1);
            std::thread::Builder::new().spawn(draw).unwrap().join().unwrap()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
