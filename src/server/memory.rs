//! What the C library's allocator is told: give large blocks back. It knows nothing of the server.
//!
//! Left alone, glibc takes the first large block that is freed (19 MiB of a hashed password) as a sign that large blocks will be
//! wanted again, and from then on keeps them, in up to eight arenas for each core: after some logins that was 600 MB.

/// From this size on a block is the system's own and goes back to it when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 1024 * 1024;

/// Fixes the sizes that glibc would change by itself. To be called before the first large block.
pub fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number inside the allocator, under its lock; a refusal leaves the default.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(parameter, LARGE);
        }
    }
}

/// Gives back what lies free between blocks in use: for the end of a start, which needs much that serving does not.
pub fn return_free_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: looks through the allocator's own lists, under its locks.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}
