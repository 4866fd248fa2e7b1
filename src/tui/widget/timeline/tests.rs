//! How messages become lines.
