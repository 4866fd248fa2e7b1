//! Engines joined by a model of the server.
