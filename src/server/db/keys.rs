//! Prekeys: stored once, given out at most once.
