//! The binary as scripts call it.
