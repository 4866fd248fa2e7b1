//! Whole conversations: the public vectors, random interleavings, and what a stolen state gives away.

mod vectors;
