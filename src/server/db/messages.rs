//! Rows of a channel's log; `append_rows()` is the one door into it.
