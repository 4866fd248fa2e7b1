//! What the operating system is told of the client's memory: the keys stay out of swap. It knows no key. To be called once, before
//! the first key is made.

use rustix::process::{Resource, getrlimit};

use crate::crypto::secret;

/// As many keys as a client has as a rule; what may be locked is scarce, and the store's library wants some for its own keys.
const LOCKED_MAX: u64 = 512 * 1024;

/// Locks the place where keys lie, as far as the system lets this process.
pub fn keep_keys_out_of_swap() {
    let allowed = getrlimit(Resource::Memlock).current.map_or(LOCKED_MAX, |limit| LOCKED_MAX.min(limit / 2));
    let Ok(bytes @ 1..) = usize::try_from(allowed) else { return };
    let place = secret::reserve(bytes);
    // SAFETY: it keeps whole pages in memory, for as long as the process lives, and changes nothing in them.
    #[allow(unsafe_code)]
    let locked = unsafe { rustix::mm::mlock(place.start.cast_mut().cast(), bytes) };
    if let Err(error) = locked {
        tracing::debug!(%error, "keys could not be locked in memory");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_keys_is_locked_as_far_as_the_system_allows() {
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim().to_owned();
            line.strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
        };
        keep_keys_out_of_swap();
        let allowed = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
        assert!(locked() >= LOCKED_MAX || allowed < 4 * LOCKED_MAX, "{} of {allowed}", locked());
    }
}
