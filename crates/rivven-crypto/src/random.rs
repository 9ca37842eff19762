//! Randomness of the operating system.

/// The operating system gave no randomness.
///
/// Nothing was made. It happens where `getrandom` is forbidden by a sandbox; allow the system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no randomness; allow the getrandom system call")]
pub struct EntropyError;

impl EntropyError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "no-entropy"
    }
}

/// `N` bytes from the operating system's generator.
///
/// # Errors
/// [`EntropyError`] when the operating system refuses.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` from the operating system's generator.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), EntropyError> {
    getrandom::fill(bytes).map_err(|_| EntropyError)
}
